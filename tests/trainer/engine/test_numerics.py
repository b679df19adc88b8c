"""The step against an independent one-process float32 reference: every ZeRO stage, full and LoRA, ragged and packed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from finetune_trainer.model.load import load_model
from finetune_trainer.model.lora import apply_lora
from finetune_trainer.spec import LoRA
from ranks import run_ranks
from reference import random_steps, reference_run

ROWS = {"seed": 1, "steps": 4, "rows": 5}  # on 2 ranks: 3 accumulations, of which rank 1 has one without rows
TARGET = "tests/trainer/engine/ranks_engine.py:train"


@pytest.fixture(scope="session")
def references(tiny_llama: Path) -> dict[str, list[tuple[float, float]]]:
    full = load_model(tiny_llama, dtype=torch.float32, zero_stage=0, ds_config={}, gradient_checkpointing=False)
    steps = random_steps(**ROWS)
    found = {"Full": reference_run(full, steps)}
    adapted, _ = apply_lora(full, LoRA(rank=4, alpha=8), seed=0)
    return found | {"LoRA": reference_run(adapted, steps)}


@pytest.mark.parametrize("method", ["Full", "LoRA"])
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_loss_and_gradient_norm_equal_the_one_process_reference(
    zero_stage: int, method: str, tiny_llama: Path, references: dict[str, list[tuple[float, float]]]
) -> None:
    payload = {"model": str(tiny_llama), "zero_stage": zero_stage, "method": method, "rows": ROWS}
    ranks = run_ranks(2, TARGET, payload)
    losses, norms = zip(*references[method], strict=True)
    assert losses[-1] < losses[0]  # the reference learns, so equality says something
    for result in ranks:
        assert result["losses"] == pytest.approx(losses, rel=1e-6)
        assert result["norms"] == pytest.approx(norms, rel=1e-6)
