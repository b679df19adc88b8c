"""The step against an independent one-process float32 reference: every ZeRO stage, full and LoRA, ragged and packed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_trainer.model.load import load_model
from finetune_trainer.model.lora import apply_lora
from finetune_trainer.spec import LoRA
from ranks import run_ranks
from reference import random_steps, reference_run

ROWS = {"seed": 1, "steps": 4, "rows": 5}  # on 2 ranks: 3 accumulations, of which rank 1 has one without rows
TRAIN, START = (f"tests/trainer/engine/ranks_engine.py:{name}" for name in ("train", "start"))
BF16: dict[str, Any] = {"method": "Full", "training": {"precision": "BF16"}}
CASES: dict[str, dict[str, Any]] = {
    "Full": {"method": "Full"},
    "LoRA": {"method": "LoRA"},
    "checkpointed": {"method": "Full", "training": {"gradientCheckpointing": "On"}},
    "BF16": BF16,
}
OFFLOADED: dict[str, Any] = {"method": "Full", "deepspeed": {"offloadOptimizer": "CPU"}}
TOLERANCE = {"BF16": 3e-3}  # 8 bits of mantissa in weights, activations and gradients; float32 masters


def cases_of(zero_stage: int, model: Path) -> dict[str, dict[str, Any]]:
    cases = CASES | ({"offloaded": OFFLOADED} if zero_stage > 0 else {})
    return {name: {"model": str(model), "zero_stage": zero_stage, "rows": ROWS} | case for name, case in cases.items()}


@pytest.fixture(scope="session")
def references(tiny_llama: Path) -> dict[str, list[tuple[float, float]]]:
    full = load_model(tiny_llama, dtype=torch.float32, zero_stage=0, ds_config={}, gradient_checkpointing=False)
    steps = random_steps(**ROWS)
    found = {"Full": reference_run(full, steps)}
    adapted, _ = apply_lora(full, LoRA(rank=4, alpha=8), seed=0)
    return found | {"LoRA": reference_run(adapted, steps)}


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_loss_and_gradient_norm_equal_the_one_process_reference(
    zero_stage: int, tiny_llama: Path, references: dict[str, list[tuple[float, float]]]
) -> None:
    ranks = run_ranks(2, TRAIN, {"cases": cases_of(zero_stage, tiny_llama)})
    for name, found in ((name, found) for results in ranks for name, found in results.items()):
        losses, norms = zip(*references["LoRA" if name == "LoRA" else "Full"], strict=True)
        assert losses[-1] < losses[0]  # the reference learns, so equality says something
        tolerance = TOLERANCE.get(name, 1e-6)
        assert found["losses"] == pytest.approx(losses, rel=tolerance), name
        assert found["norms"] == pytest.approx(norms, rel=10 * tolerance if name in TOLERANCE else tolerance), name


def test_the_optimizer_starts_from_the_weights_of_the_model_and_without_an_update(tiny_llama: Path) -> None:
    decayed = {"training": {"precision": "BF16", "optimizer": {"weightDecay": 0.5}}}
    cases = {
        str(stage): {"model": str(tiny_llama), "zero_stage": stage, "rows": ROWS} | BF16 | decayed for stage in range(4)
    }
    for results in run_ranks(2, START, {"cases": cases}):
        for stage, found in results.items():
            assert found["masters"] > 0
            assert (found["updates"], found["changed"]) == (0, []), f"stage {stage}"
