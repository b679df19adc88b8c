"""A step of any objective is the same on two ranks with accumulation as in one process that takes it whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from preference_data import make_preference_job
from ranks import run_ranks

STEPS = "tests/trainer/engine/ranks_objectives.py:steps"
ROWS = 6
KINDS: dict[str, dict[str, Any]] = {
    "DPO": {"objective": {"type": "DPO", "dpo": {"reference": "Base"}}, "deepspeed": {"zeroStage": 3}},
    "DPO with a copy": {"objective": {"type": "DPO", "dpo": {"reference": "Copy"}}},
    "DPO precomputed": {"objective": {"type": "DPO", "dpo": {"reference": "Precomputed"}}},
    "ORPO": {"objective": {"type": "ORPO"}},
    "KTO": {"objective": {"type": "KTO", "kto": {"undesirableWeight": 2.0}}, "data": {"packing": "None"}},
    "KTO packed": {"objective": {"type": "KTO"}, "deepspeed": {"zeroStage": 3}},
}


def jobs(folder: Path, micro_batch_size: int) -> dict[str, str]:
    """The manifest of each kind, with records of ragged lengths."""
    found = {}
    for name, kind in KINDS.items():
        place = folder / name.replace(" ", "-")
        small = make_preference_job(place, kind["objective"]["type"])
        source: dict[str, Any] = {"uri": f"file://{place}/train.jsonl"}
        if kind["objective"]["type"] == "KTO":
            source["format"] = "UnpairedPreference"
        data = {"maxLength": 128, "train": [source]} | kind.get("data", {})
        training = {"globalBatchSize": ROWS, "microBatchSize": micro_batch_size}
        others = {part: kind[part] for part in ("objective", "deepspeed") if part in kind}
        path = small.write("job", data=data, training=training, **others)
        found[name] = str(path)
    return found


@pytest.mark.slow
def test_two_ranks_with_accumulation_take_the_steps_of_one_process(tmp_path: Path) -> None:
    (whole,) = run_ranks(1, STEPS, {"jobs": jobs(tmp_path / "one", ROWS)}, timeout=240)
    first, second = run_ranks(2, STEPS, {"jobs": jobs(tmp_path / "two", 1)}, timeout=240)
    assert first == second
    for name, steps in whole.items():
        found = first[name]
        assert [loss for loss, _, _ in found] == pytest.approx([loss for loss, _, _ in steps], rel=1e-6), name
        assert [norm for _, norm, _ in found] == pytest.approx([norm for _, norm, _ in steps], rel=2e-6), name
        for step, (own, other) in enumerate(zip(found, steps, strict=True)):
            measured, expected = compared(step, own[2]), compared(step, other[2])
            assert measured == pytest.approx(expected, rel=1e-4, abs=1e-6), name
        assert steps[-1][0] != pytest.approx(steps[0][0], rel=1e-4), "it learns nothing, so equality says nothing"


def compared(step: int, metrics: dict[str, float]) -> dict[str, float]:
    """Before the first update nothing has gained anything, and which of two answers is ahead is rounding."""
    return {name: value for name, value in metrics.items() if step or name != "rewards/accuracy"}
