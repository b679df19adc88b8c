"""The demo's report says what the runs' own files say."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from plot import ticks
from report import Stage, losses, read, table

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


def test_the_plot_has_every_evaluation_and_every_finite_step(stage: Stage) -> None:
    root = ET.fromstring(losses([stage, stage]))
    svg = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{svg}circle")) == 2 * 3
    lines = [line.attrib["points"].split() for line in root.findall(f"{svg}polyline")]
    assert [len(points) for points in lines] == [2, 3, 2, 3]
    heights = [float(point.split(",")[1]) for point in lines[1]]
    assert heights[0] < heights[2] < heights[1]  # SVG counts from the top: the highest loss is the highest point


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (4.9, 8.4, [5, 6, 7, 8]),
        (0.11, 0.38, [0.2, 0.3]),
        (0, 418, [0, 100, 200, 300, 400]),
    ],
)
def test_ticks_are_round_numbers_within_the_range(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == expected
