"""What the user reads of a run: lines, the live view, JSON."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from finetune_trainer.launch.lines import LineReporter, duration, line, number, size
from finetune_trainer.launch.render import JsonView, PlainView, RichView

PROGRESS: dict[str, Any] = {
    "kind": "progress",
    "step": 120,
    "totalSteps": 1000,
    "percent": 12.0,
    "epoch": 0.24,
    "loss": 2.12345,
    "tokens": 983040,
    "tokensPerSecond": 8123.4,
    "learningRate": 2.0e-4,
    "etaSeconds": 751.0,
}


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (PROGRESS, "step 120/1000 (12.0 %)  loss 2.1235  8,123 tokens/s  learning rate 2.00e-04  12:31 left"),
        ({**PROGRESS, "loss": None, "etaSeconds": None}, "step 120/1000 (12.0 %)  skipped  8,123 tokens/s"),
        ({"kind": "verdict", "verdict": "Improved", "text": "It was worth it."}, "It was worth it."),
        ({"kind": "phase", "name": "fetching model", "done": 1.2e9, "total": 3e9, "unit": "B"}, "(1.2 GB of 3 GB)"),
        ({"kind": "phase", "name": "indexing data", "done": 1500, "unit": "records"}, "indexing data (1,500 records)"),
        (
            {"kind": "eval", "step": 200, "evalLoss": 1.5, "baseLoss": 2.25, "name": "support", "best": True},
            "step 200: held-out loss 1.5000 (support), before training 2.2500, best so far",
        ),
        ({"kind": "eval", "step": 0, "evalLoss": 2.25, "baseLoss": 2.25}, "step 0: held-out loss 2.2500"),
        (
            {"kind": "eval", "step": 8, "evalLoss": 0.5, "metrics": {"support": {"rewards/accuracy": 0.75}, "b": {}}},
            "step 8: held-out loss 0.5000\n  support: rewards/accuracy 0.7500",
        ),
        (
            {"kind": "checkpoint", "step": 200, "uri": "s3://c/x", "bytes": 2_000_000, "seconds": 1.25},
            "step 200: checkpoint committed (2 MB in 1.2 s)  s3://c/x",
        ),
        (
            {"kind": "restart", "restarts": 1, "maxRestarts": 5, "message": "rank 1 was killed by SIGKILL"},
            "starting the workers again from the last checkpoint (restart 1 of 5): rank 1 was killed by SIGKILL",
        ),
        ({"kind": "result", "evalLoss": {"support": 1.25}, "output": None}, "result:\n  eval loss.support: 1.2500"),
        (
            {"kind": "result", "overlong": {"truncated": 3, "lostTokens": 1200}, "evalOverlong": {}},
            "result:\n  overlong.truncated: 3\n  overlong.lost tokens: 1,200",
        ),
        ({"kind": "from a newer version", "someKey": 3}, "some key 3"),
    ],
)
def test_each_event_has_its_line(event: dict[str, Any], text: str) -> None:
    assert text in line(event)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (12345, "12,345"),
        (2.5, "2.5000"),
        (0.00002, "2.00e-05"),
        (0.0, "0.0000"),
        (123.456, "123.5"),
        ("x", "x"),
    ],
)
def test_numbers_are_written_as_people_read_them(value: object, text: str) -> None:
    assert number(value) == text


def test_durations_and_sizes_have_units() -> None:
    assert [duration(5), duration(65), duration(3725)] == ["0:05", "1:05", "1:02:05"]
    assert [size(12), size(2500), size(3.2e12)] == ["12 B", "2.5 kB", "3.2 TB"]


def test_progress_lines_are_ten_seconds_apart_and_the_last_step_is_always_there() -> None:
    written: list[str] = []
    now = 100.0
    reporter = LineReporter(written.append, clock=lambda: now)
    for step in range(1, 31):
        now += 1.0
        reporter.report({**PROGRESS, "step": step, "totalSteps": 30})
    assert [text.split()[1] for text in written] == ["1/30", "11/30", "21/30", "30/30"]


def test_other_events_are_never_held_back() -> None:
    written: list[str] = []
    reporter = LineReporter(written.append, clock=lambda: 100.0)
    reporter.report(PROGRESS)
    for step in (1, 2, 3):
        reporter.report({"kind": "eval", "step": step, "evalLoss": 1.0})
    assert len(written) == 4


def test_json_lines_hold_every_event_as_it_was_sent() -> None:
    out = io.StringIO()
    view = JsonView(out)
    for _ in range(3):
        view.show(PROGRESS)
    view.note("logs: /x")
    events = [json.loads(text) for text in out.getvalue().splitlines()]
    assert events == [PROGRESS, PROGRESS, PROGRESS, {"kind": "note", "message": "logs: /x"}]


def test_plain_lines_hold_no_control_characters() -> None:
    out = io.StringIO()
    view = PlainView(out)
    view.show({"kind": "phase", "name": "training"})
    view.show(PROGRESS)
    assert out.getvalue().splitlines()[0] == "training"
    assert "\x1b" not in out.getvalue()


def render(*events: dict[str, Any], seconds: float = 0.0) -> str:
    """Show events in the live view, the last of them so many seconds later, and return what the terminal got."""
    out = io.StringIO()
    now = 0.0
    console = Console(file=out, force_terminal=True, width=100, color_system=None, _environ={})
    with RichView(console, clock=lambda: now) as view:
        for event in events[:-1]:
            view.show(event)
        now += seconds
        view.show(events[-1])
        console.print(view._render())
    return out.getvalue()


def test_the_live_view_shows_step_percent_loss_speed_time_left_and_the_last_checkpoint() -> None:
    text = render(
        {"kind": "eval", "step": 100, "evalLoss": 1.9},
        {"kind": "checkpoint", "step": 100, "uri": "file:///c"},
        PROGRESS,
    )
    for part in ("step 120/1000", "12.0 %", "loss 2.1235", "8,123 tokens/s", "12:31 left"):
        assert part in text
    assert "held-out loss 1.9000" in text
    assert "last checkpoint step 100" in text


def test_without_an_estimate_the_time_left_follows_from_the_pace() -> None:
    first = {**PROGRESS, "percent": 10.0, "etaSeconds": None}
    assert "13:20 left" in render(first, {**first, "percent": 20.0}, seconds=100.0)


def test_a_finished_phase_is_ticked_off_with_its_time() -> None:
    text = render({"kind": "phase", "name": "fetching model"}, {"kind": "phase", "name": "training"}, seconds=65.0)
    assert "\u2713 fetching model  1:05" in text


AUDIT: dict[str, Any] = {
    "kind": "audit",
    "coverage": {
        "parameters": 8_000_000,
        "trainedParameters": 40_000,
        "kinds": {
            "k_proj": {"total": 4, "trained": 4},
            "lm_head": {"total": 1, "trained": 0},
            "up": {"total": 4, "trained": 2},
        },
    },
    "isolation": {"alone": 2.0e-7, "other_neighbour": 3.0e-7, "tolerance": 1.0e-5},
    "keptTokenShare": 0.625,
    "counts": {"records": 1200, "truncated": 3, "lost_tokens": 40, "bad": 0},
    "sources": [{"uri": "file:///d/*.jsonl", "records": 5000, "files": 1, "format": "Messages"}],
    "dataReport": {
        "total": {
            "read": 1200,
            "lengths": {"p50": 90, "p90": 400, "p99": 1900, "max": 2500},
            "exactDuplicates": 7,
            "nearDuplicates": 20,
        },
        "fill": 0.987,
    },
    "estimatedSteps": 1250,
    "sample": [{"text": "user: hi\n", "trained": False}, {"text": "hello", "trained": True}],
    "versions": {"torch": "2.15.0"},
}


def test_an_audit_is_a_few_facts_and_a_sample_with_its_mask() -> None:
    assert line(AUDIT).splitlines() == [
        "audit:",
        "  trained parameters: 40,000 of 8,000,000 (0.50 %)",
        "  trained weights: k_proj, up (2 of 4)",
        "  data: file:///d/*.jsonl: 5,000 records in 1 file, Messages",
        "  trained tokens: 62.5 %",
        "  first records: 3 truncated of 1,200, 40 tokens cut off",
        "  record lengths: p50 90, p90 400, p99 1,900, max 2,500 tokens; rows 98.7 % full",
        "  duplicates: 7 exact, 20 near of the first 1,200 records",
        "  packing: documents in one row do not see each other (difference 3.0e-07, tolerance 1.0e-05)",
        "  steps: about 1,250",
        "  sample, trained parts in [[ ]]: user: hi",
        "[[hello]]",
    ]
    shown = render(AUDIT)
    assert "40,000 of 8,000,000" in shown
    assert "hello" in shown


def test_an_audit_of_another_version_shows_what_it_has() -> None:
    assert line({"kind": "audit", "isolation": "not packed"}) == "audit:\n  packing: not packed"


def test_a_long_sample_is_cut() -> None:
    text = line(
        {"kind": "audit", "sample": [{"text": "x" * 5000, "trained": True}, {"text": "never", "trained": True}]}
    )
    assert len(text) < 1000
    assert "never" not in text


def test_a_result_is_a_table_in_words() -> None:
    text = render({"kind": "result", "heldOutLoss": 1.25, "tokensPerSecond": 8123.0, "keptTokenShare": 0.625})
    assert "62.5 %" in text
    assert "held out loss" in text
    assert "1.2500" in text
    assert "8,123" in text
