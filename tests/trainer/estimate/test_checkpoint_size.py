"""The size of a checkpoint as predicted, against the objects that a rank would write."""

from __future__ import annotations

import json

import torch

import tiny_models
from finetune_trainer.engine.fragments import KINDS, Fragment
from finetune_trainer.engine.share import TensorObject, shards
from finetune_trainer.engine.snapshot import state_name
from finetune_trainer.estimate import Setup, read_shape
from finetune_trainer.estimate.host import checkpoint_size
from finetune_trainer.estimate.state import count
from reference import job


def test_a_checkpoint_has_the_predicted_bytes_and_headers() -> None:
    options = {"hidden_size": 256, "intermediate_size": 512, "vocab_size": 8192}
    with torch.device("meta"):
        model = tiny_models.build("llama", **options)
    whole = [
        Fragment(name, tuple(one.shape), 0, one.numel(), {kind: one.detach().view(-1) for kind in KINDS}, owned=True)
        for name, one in model.named_parameters()
    ]
    objects = [TensorObject(state_name(0, number), tuple(pieces)) for number, pieces in enumerate(shards(whole))]
    written = sum(one.size for one in objects)
    shape = read_shape(json.loads(tiny_models.CONFIGS["llama"](**options).to_json_string(use_diff=False)))
    predicted = checkpoint_size(count(shape, Setup.of(job(2, "Full"), 1, on_gpu=False)))
    assert predicted < written < predicted + 16 * 2**10 < predicted * 1.001
