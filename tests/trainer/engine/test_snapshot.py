"""Training state saved and loaded: bit-exact in the same partitioning, equal to rounding in any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ranks import run_ranks

ROWS = {"seed": 2, "steps": 4, "rows": 5}
TARGET = "tests/trainer/engine/ranks_engine.py:train"
DROPOUT = {"dropout": 0.2}


def payload(model: Path, zero_stage: int, method: str, **more: Any) -> dict[str, Any]:
    return {"model": str(model), "zero_stage": zero_stage, "method": method, "rows": ROWS} | more


@pytest.mark.slow
@pytest.mark.parametrize("method", ["Full", "LoRA"])
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    zero_stage: int, method: str, tiny_llama: Path, tmp_path: Path
) -> None:
    saved = str(tmp_path / "saved")
    whole = run_ranks(2, TARGET, payload(tiny_llama, zero_stage, method, **DROPOUT))[0]
    first = run_ranks(2, TARGET, payload(tiny_llama, zero_stage, method, last=2, save=saved, **DROPOUT))[0]
    second = run_ranks(2, TARGET, payload(tiny_llama, zero_stage, method, first=2, load=saved, **DROPOUT))[0]
    assert first["losses"] + second["losses"] == whole["losses"]
    assert first["norms"] + second["norms"] == whole["norms"]


@pytest.mark.slow
@pytest.mark.parametrize(("zero_stage", "ranks"), [(3, 2), (1, 1), (0, 2), (2, 3)])
def test_state_saved_at_stage_2_on_2_ranks_goes_on_at_any_other_stage_and_world_size(
    zero_stage: int, ranks: int, tiny_llama: Path, tmp_path: Path
) -> None:
    saved = str(tmp_path / "saved")
    whole = run_ranks(2, TARGET, payload(tiny_llama, 2, "Full"))[0]
    run_ranks(2, TARGET, payload(tiny_llama, 2, "Full", last=2, save=saved))
    second = run_ranks(ranks, TARGET, payload(tiny_llama, zero_stage, "Full", first=2, load=saved))[0]
    assert second["losses"] == pytest.approx(whole["losses"][2:], rel=1e-6)
    assert second["norms"] == pytest.approx(whole["norms"][2:], rel=1e-5)
