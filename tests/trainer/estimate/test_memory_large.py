"""Memory of models that GPUs are bought for, as predicted and as CUDA counts it (docs/memory.md)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from finetune_trainer.engine.config import with_micro_batch
from finetune_trainer.estimate import device_total
from finetune_trainer.estimate.fit import CONTEXT
from finetune_trainer.estimate.setup import Setup
from finetune_trainer.spec import parse_job
from memory_cases import shape_of
from memory_large import LARGE, MODELS, LargeCase, measured_large, predicted_large

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(1200)]

TOLERANCE = 0.10
SPARE = 1.15
"""What a case may be predicted to take of the GPU's memory, times this, to be measured on it."""


def test_tensors_of_large_models_are_within_a_tenth_of_what_is_predicted(tmp_path: Path) -> None:
    memory = torch.cuda.get_device_properties(0).total_memory
    cases = [case for case in LARGE if SPARE * predicted_large(case) < memory]
    found = measured_large(cases, tmp_path)
    errors = {case.name: predicted_large(case) / one.allocated - 1 for case, one in found.items()}
    assert {name: f"{error:+.1%}" for name, error in errors.items() if abs(error) > TOLERANCE} == {}
    assert max(one.outside for one in found.values()) <= CONTEXT


def test_a_micro_batch_that_is_chosen_fits_and_twice_as_many_rows_are_predicted_not_to_leave_enough(
    tmp_path: Path,
) -> None:
    case = LargeCase("Qwen3 0.6B", "LoRA", 0, "BF16", "Off", 8192, micro_batches=1, rows=64)
    shape = shape_of(*MODELS[case.model])
    memory = torch.cuda.get_device_properties(0).total_memory
    document = case.job
    del document["spec"]["training"]["microBatchSize"]
    rows = with_micro_batch(parse_job(json.dumps(document)), shape, memory, 1).spec.training.micro_batch_size
    assert rows is not None and 1 < rows < 64
    twice = parse_job(json.dumps(replace(case, rows=2 * rows).job))
    assert device_total(shape, Setup.of(twice, 1, on_gpu=True))[0] > 0.85 * memory
    chosen = replace(case, rows=rows, micro_batches=2)
    assert measured_large([chosen], tmp_path)[chosen].reserved < memory
