"""Adapters start equal at every ZeRO stage and world size, are proved, and learn as in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tiny_models
from ranks import run_ranks

MODULE = "tests/trainer/model/ranks_lora.py"
KINDS = ("llama-tied", "qwen2-moe")
STAGES = (0, 2, 3)


@pytest.mark.timeout(400)
def test_two_ranks_one_of_them_without_tokens_learn_what_one_process_learns(tmp_path: Path) -> None:
    paths = {kind: str(tiny_models.save(kind, tmp_path / kind)) for kind in KINDS}
    (reference,) = run_ranks(1, f"{MODULE}:train_plainly", {"paths": list(paths.values())}, timeout=180)
    runs = [(kind, stage) for kind in KINDS for stage in STAGES]
    ranks = run_ranks(2, f"{MODULE}:train", {"runs": [(paths[kind], stage) for kind, stage in runs]}, timeout=180)
    for number, (kind, _) in enumerate(runs):
        expected = reference["runs"][KINDS.index(kind)]
        for rank, result in enumerate(ranks):
            found = result["runs"][number]
            assert found["initial"] == expected["initial"]
            assert found["isolation"]["isolated"]
            assert found["loss"] == pytest.approx(expected["loss"] if rank == 0 else 0.0, rel=1e-6)
            _assert_learnt(found["trained"], expected["trained"])


def _assert_learnt(found: dict[str, Any], expected: dict[str, Any]) -> None:
    moved = max(max(map(abs, values)) for name, values in expected.items() if ".lora_B." in name)
    assert moved > 1e-3
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-4, abs=1e-6 * moved), name
