"""The demo's report says what the runs' own files say."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from report import Stage, read, table

METRICS = [
    {"step": 0, "evalLoss": 5.0},
    {"step": 1, "learningRate": 0.1, "loss": 4.8, "tokens": 100, "keptTokens": 40, "seconds": 0.5},
    {"step": 2, "learningRate": 0.1, "loss": None, "tokens": 200, "keptTokens": 20, "seconds": 0.5},
    {"step": 2, "evalLoss": 4.25},
    {"step": 3, "learningRate": 0.1, "loss": 4.1, "tokens": 300, "keptTokens": 30, "seconds": 1.0},
    {"step": 3, "evalLoss": 4.5},
]

RESULT = {
    "baseLoss": 5.0,
    "evalLoss": 4.25,
    "step": 3,
    "exportedStep": 2,
    "tokens": 300,
    "keptTokenShare": 0.3,
    "trainableShare": 0.0125,
    "tokensPerSecond": 150.0,
}


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    (tmp_path / "audit.json").write_text(json.dumps({"result": RESULT}))
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in METRICS))
    return read("a run", tmp_path)


def test_the_table_shows_what_the_run_recorded(stage: Stage) -> None:
    out = StringIO()
    Console(file=out, width=120).print(table([stage]))
    rows = {
        line.split("│")[1].strip(): line.split("│")[2].strip() for line in out.getvalue().splitlines() if "│" in line
    }
    assert rows == {
        "held-out loss before": "5.000",
        "held-out loss after": "4.250 (-0.750)",
        "steps (exported)": "3 (2)",
        "tokens": "300",
        "tokens that train": "30.0%",
        "weights that train": "1.25%",
        "seconds in steps": "2",
        "tokens per second": "150",
    }
