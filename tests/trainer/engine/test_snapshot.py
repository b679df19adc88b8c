"""Training state saved and loaded: bit-exact in the same partitioning, equal to rounding in any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ranks import run_ranks

ROWS = {"seed": 2, "steps": 4, "rows": 5}
TRAIN, RESUME = (f"tests/trainer/engine/ranks_engine.py:{name}" for name in ("train", "resume"))
CASES: dict[str, dict[str, Any]] = {
    "Full": {"method": "Full"},
    "LoRA": {"method": "LoRA", "dropout": 0.2},  # the random state matters too
    "BF16": {"method": "Full", "training": {"precision": "BF16"}},
}
OFFLOADED = {"method": "Full", "deepspeed": {"offloadOptimizer": "CPU"}}
PARTITIONED = {"overrides": {"zero_optimization.stage3_param_persistence_threshold": 0}}
"""Tiny parameters are kept whole on every rank by default, real ones are not."""


def cases_of(zero_stage: int) -> dict[str, dict[str, Any]]:
    cases = CASES | ({"offloaded": OFFLOADED} if zero_stage > 0 else {})
    if zero_stage == 3:
        return cases | {f"{name}, partitioned": case | {"deepspeed": PARTITIONED} for name, case in CASES.items()}
    return cases


def payload(model: Path, zero_stage: int, case: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": str(model), "zero_stage": zero_stage, "rows": ROWS} | case | more


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    zero_stage: int, tiny_llama: Path, tmp_path: Path
) -> None:
    cases = {
        name: payload(tiny_llama, zero_stage, case, save=str(tmp_path / name))
        for name, case in cases_of(zero_stage).items()
    }
    for results in run_ranks(2, RESUME, {"cases": cases}, timeout=240):
        for name, found in results.items():
            losses, norms = found["whole"]
            assert found["used"] == [losses[2:], norms[2:]], name
            assert found["fresh"] == [losses[2:], norms[2:]], name
            assert len(set(found["weights"])) == len(set(found["final"])) == 1, name


@pytest.fixture(scope="module")
def saved(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[float]]]:
    """State of stage 2 on 2 ranks after 2 steps, and losses and norms of the steps from there."""
    folder = tmp_path_factory.mktemp("state") / "saved"
    case = payload(tiny_llama, 2, CASES["Full"], save=str(folder))
    whole = run_ranks(2, RESUME, {"cases": {"saved": case}})[0]["saved"]["whole"]
    return folder, [values[2:] for values in whole]


@pytest.mark.slow
@pytest.mark.parametrize(("zero_stage", "ranks"), [(3, 2), (1, 1), (0, 2), (2, 3)])
def test_state_saved_at_stage_2_on_2_ranks_goes_on_at_any_other_stage_and_world_size(
    zero_stage: int, ranks: int, tiny_llama: Path, saved: tuple[Path, list[list[float]]]
) -> None:
    folder, (losses, norms) = saved
    case = payload(tiny_llama, zero_stage, CASES["Full"], first=2, load=str(folder))
    found = run_ranks(ranks, TRAIN, {"cases": {"other": case}})[0]["other"]
    assert found["losses"] == pytest.approx(losses, rel=1e-6)
    assert found["norms"] == pytest.approx(norms, rel=1e-5)
