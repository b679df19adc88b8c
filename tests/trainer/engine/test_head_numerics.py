"""Steps of reward models and classifiers against one process and plain transformers: every ZeRO stage, full and LoRA.

Rows are packed and ragged; on 2 ranks there are 3 accumulations, of which rank 1 has one without rows. Class weights
differ, so that a mean of the ranks' means would show.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from finetune_trainer.model.load import load_model
from finetune_trainer.model.lora import apply_lora
from finetune_trainer.spec import LoRA
from head_reference import HEADS, REWARD, head_reference_run, scored_steps
from ranks import run_ranks

ROWS = {"seed": 3, "steps": 4, "rows": 5}
CASES = [
    (REWARD, "Full", 0),
    (REWARD, "LoRA", 3),
    ("SingleLabel", "Full", 3),
    ("SingleLabel", "LoRA", 2),
    ("MultiLabel", "Full", 1),
    ("Regression", "LoRA", 0),
]


@pytest.mark.timeout(240)
def test_loss_and_gradient_norm_of_two_ranks_equal_those_of_one_process(tiny_llama: Path) -> None:
    payload = {"model": str(tiny_llama), "rows": ROWS, "cases": CASES}
    ranks = run_ranks(2, "tests/trainer/engine/ranks_heads.py:train", payload, timeout=180)
    for number, (kind, method, stage) in enumerate(CASES):
        model = load_model(tiny_llama, dtype=torch.float32, head=HEADS[kind])
        trained = apply_lora(model, LoRA(rank=4, alpha=8), seed=0)[0] if method == "LoRA" else model
        losses, norms = zip(*head_reference_run(trained, kind, scored_steps(kind, **ROWS)), strict=True)
        for rank in ranks:
            found = rank["cases"][number]
            assert found["losses"] == pytest.approx(losses, rel=1e-6), (kind, method, stage)
            assert found["norms"][0] == pytest.approx(norms[0], rel=1e-6), (kind, method, stage)
            assert found["norms"] == pytest.approx(norms, rel=5e-6), (kind, method, stage)  # rounding through AdamW
            assert found["isolated"]
            assert found["accuracy"] == ranks[0]["cases"][number]["accuracy"]
