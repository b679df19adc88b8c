"""Which of TRL's settings may be compared with: those that keep documents apart, like ours."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny_models
from bench.trl_contestants import ISOLATING, SETTINGS
from ranks import run_ranks

pytestmark = pytest.mark.bench


def test_trl_keeps_documents_apart_in_every_setting_but_wrapped_packing(tmp_path: Path) -> None:
    model = tiny_models.save("llama", tmp_path / "model")
    tiny_models.save_tokenizer(model, pad_token="<pad>")
    payload = {"model": str(model), "workdir": str(tmp_path / "work")}
    leaks = run_ranks(1, "tests/bench/trl_isolation.py:leaks", payload, timeout=300, fresh=True)[0]
    assert {name for name in SETTINGS if leaks[name] < 1e-4} == set(ISOLATING), leaks
    assert leaks["wrapped"] > 1e-2  # what a leak looks like to this test
