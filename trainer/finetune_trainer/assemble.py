"""The model as it is trained: loaded, given room and adapters, and wrapped by DeepSpeed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from finetune_trainer.data import LabelSet
from finetune_trainer.engine.batch import Forward
from finetune_trainer.engine.collectives import ControlGroup
from finetune_trainer.engine.config import deepspeed_config
from finetune_trainer.engine.start import start_engine
from finetune_trainer.estimate import use_gradient_checkpointing
from finetune_trainer.model.added_tokens import make_room, new_ids, token_ids
from finetune_trainer.model.coverage import Coverage
from finetune_trainer.model.head import KeptPositions, Positions
from finetune_trainer.model.isolation import IsolationReport, prove_isolation
from finetune_trainer.model.load import load_model
from finetune_trainer.model.lora import apply_lora, full_coverage
from finetune_trainer.model.partial import freeze
from finetune_trainer.model.quantize import quantization, settle
from finetune_trainer.model.score import ScoreHead, ScorePositions
from finetune_trainer.model.start_adapter import check_tokens, load_adapter
from finetune_trainer.objectives.heads import score_head
from finetune_trainer.spec import (
    FineTuneJob,
    Packing,
    Precision,
)


@dataclass(frozen=True)
class Assembled:
    """The engine around the model, how rows go through it, what is trained, and whether it keeps documents apart."""

    engine: Any
    forward: Forward
    coverage: Coverage
    isolation: IsolationReport | None


def assemble(
    job: FineTuneJob,
    control: ControlGroup,
    path: Path,
    adapter: Path | None,
    tokenizer: PreTrainedTokenizerFast,
    device: torch.device,
    labels: LabelSet | None,
    settle_start: Callable[[Any], None],
) -> Assembled:
    """The model in the folder `path` as the manifest trains it; collective.

    `adapter`: the folder of one to start from. `labels`: a classifier's. `settle_start` sets what the adapters begin
    with where that is a part of the weights.
    """
    if adapter is not None:
        check_tokens(job, adapter, tokenizer)
    head = score_head(job, labels, tokenizer)
    base = load_base(job, control, path, tokenizer, device, head)
    adapted, coverage = adapt(job, base, token_ids(tokenizer, job.spec.model.added_tokens), adapter)
    settle_start(adapted)
    positions: Positions = KeptPositions(adapted) if head is None else ScorePositions(adapted)
    engine, forward, isolation = load_engine(job, control, adapted, positions, tokenizer, device)
    return Assembled(engine, forward, coverage, isolation)


def compute_dtype(job: FineTuneJob) -> torch.dtype:
    """What weights are computed with."""
    return torch.bfloat16 if job.spec.training.precision == Precision.BF16 else torch.float32


def load_base(
    job: FineTuneJob,
    control: ControlGroup,
    path: Path,
    tokenizer: PreTrainedTokenizerFast,
    device: torch.device,
    score: ScoreHead | None = None,
) -> Any:
    """The model as training begins with it, before adapters, with room for added tokens; collective with ZeRO-3.

    With `score` it is a sequence classifier with that head.
    """
    spec = job.spec
    on_gpu = device.type == "cuda"
    dtype = compute_dtype(job)
    model: Any = load_model(
        path,
        dtype=dtype,
        zero_stage=spec.deepspeed.zero_stage,
        ds_config=deepspeed_config(job, control.world_size, on_gpu=on_gpu),
        gradient_checkpointing=use_gradient_checkpointing(spec.training.gradient_checkpointing, on_gpu=on_gpu),
        uri=spec.model.uri,
        head=score,
        quantization=quantization(spec.method.qlora, dtype, device) if spec.method.qlora is not None else None,
    )
    if spec.method.qlora is not None:
        settle(model)
    if spec.model.added_tokens:
        make_room(model, len(tokenizer), new_ids(path, tokenizer, spec.model.added_tokens))
    return model


def adapt(job: FineTuneJob, model: Any, tokens: Sequence[int], adapter: Path | None) -> tuple[Any, Coverage]:
    """The model with what is trained, and a gradient for nothing else; `tokens` are ids of added tokens.

    `adapter` is the folder of one to start from; collective with ZeRO-3.
    """
    method, start = job.spec.method, job.spec.model.continued_adapter
    if method.lora is not None:
        adapted, covered = apply_lora(model, method.lora, job.spec.training.seed, tokens)
        if adapter is not None and start is not None:
            load_adapter(adapted, adapter, start.uri, method.lora)
        return adapted, covered
    if method.full is not None:
        freeze(model, method.full)
    return model, full_coverage(model)


def load_engine(
    job: FineTuneJob,
    control: ControlGroup,
    model: Any,
    head: Positions,
    tokenizer: PreTrainedTokenizerFast,
    device: torch.device,
) -> tuple[Any, Forward, IsolationReport | None]:
    """The model on its device, proved to keep packed documents apart, and wrapped by DeepSpeed; collective."""
    soft_capped = getattr(model.config.get_text_config(), "final_logit_softcapping", None) is not None
    engine = start_engine(job, model, control.world_size, device)
    packing = job.spec.data.packing
    isolation = prove_isolation(engine.module, device, head) if packing == Packing.BEST_FIT else None
    assert isinstance(tokenizer.pad_token_id, int)
    forward = Forward(head, device, tokenizer.pad_token_id, reuse_logits=not soft_capped, alone=packing is Packing.NONE)
    return engine, forward, isolation
