"""What is read of a report: which bodies are refused, what becomes of values that make no sense, what is never kept."""

from __future__ import annotations

import json
import typing
from typing import Any

import pytest

from finetune_operator.api.report import Failure
from finetune_operator.api.status import OutputStatus, Progress
from finetune_operator.progress.payload import (
    NOTHING,
    Change,
    Malformed,
    read_kubeflow,
    read_report,
)
from finetune_operator.progress.values import LONGEST_MESSAGE
from finetune_trainer.launch.events import Kind
from reports import body


def read(event: dict[str, Any]) -> Change:
    ((_, change),) = read_report(body(event)).changes
    return change


def test_a_step_becomes_the_fields_of_a_status() -> None:
    step = {"step": 7, "totalSteps": 50, "percent": 14.9, "epoch": 0.28, "loss": 2.71828182845, "tokens": 2**40}
    change = read({"kind": "progress", **step, "tokensPerSecond": 1234.6, "learningRate": 1e-4, "etaSeconds": 90.0})
    assert Progress(**change.progress) == Progress(
        step=7, total_steps=50, percent=14, epoch="0.28", tokens=2**40, loss="2.71828", tokens_per_second=1235
    )
    assert change.share == pytest.approx(0.149)
    assert (change.remaining, change.urgent) == (90.0, False)


def test_the_loss_of_a_step_that_was_skipped_is_unknown_and_not_the_one_before() -> None:
    assert read({"kind": "progress", "step": 7, "loss": None}).progress["loss"] is None
    assert "loss" not in read({"kind": "progress", "step": 7}).progress


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("step", True),
        ("step", "7"),
        ("step", None),
        ("step", -1),
        ("step", [7]),
        ("tokens", {}),
        ("tokens", -(10**400)),
    ],
)
def test_a_value_that_makes_no_sense_is_left_out_and_the_rest_is_taken(field: str, value: object) -> None:
    progress = read({"kind": "progress", "percent": 50, field: value}).progress
    assert progress.get(field) is None
    assert Progress(**progress).percent == 50


@pytest.mark.parametrize("huge", [10**12, 10**400, 1e300])
def test_a_number_that_a_status_cannot_hold_is_cut_to_what_it_can(huge: float) -> None:
    progress = read({"kind": "progress", "step": huge, "tokens": huge, "percent": huge, "loss": huge}).progress
    read_back = Progress(**progress)
    assert (read_back.step, read_back.percent) == (2**31 - 1, 100)
    assert read_back.tokens is not None
    assert read_back.tokens < 2**63


def test_percent_is_rounded_down_so_that_100_means_done() -> None:
    assert [read({"kind": "progress", "percent": p}).progress["percent"] for p in (28.999, 29.0, 99.99, 100.0)] == [
        28,
        29,
        99,
        100,
    ]


@pytest.mark.parametrize(
    ("event", "activity"),
    [
        ({"name": "indexing the data", "done": 30, "total": 120, "unit": "records"}, "indexing the data (25 %)"),
        ({"name": "fetching model", "detail": "s3://models/x"}, "fetching model"),
        ({"name": "fetching model", "done": 5, "total": 0}, "fetching model"),
        ({"name": "training"}, None),
        ({"name": "\x1b[31mred\x07", "done": "all"}, "[31mred"),
        ({"name": "n" * 5000, "done": 1, "total": 2}, "n" * 1017 + " (50 %)"),
    ],
)
def test_a_phase_is_what_the_run_does_besides_steps(event: dict[str, Any], activity: str | None) -> None:
    assert Progress(**read({"kind": "phase", **event}).progress).activity == activity


def test_commits_restarts_and_ends_cannot_wait_and_steps_can() -> None:
    urgent = {kind: read({"kind": kind, "step": 1, "restarts": 1}).urgent for kind in typing.get_args(Kind)}
    assert {kind for kind, value in urgent.items() if value} == {"checkpoint", "restart", "failure", "result"}


def test_a_commit_names_the_best_step_only_when_it_is_the_best() -> None:
    commit = {"kind": "checkpoint", "step": 200, "uri": "s3://ckpt/x"}
    assert read(commit).checkpoint == {"step": 200, "latest": "s3://ckpt/x"}
    assert read(commit | {"best": True}).checkpoint == {"step": 200, "latest": "s3://ckpt/x", "best": 200}
    assert read(commit | {"uri": "s3://" + "x" * 3000}).checkpoint == {"step": 200}, "no other address is made of it"


def test_a_commit_tells_what_it_took_in_whole_seconds() -> None:
    took = {"seconds": 340.2, "bytes": 2**40, "stepSeconds": 0.01}
    told = read({"kind": "checkpoint", "step": 5, **took}).checkpoint
    assert told == {"step": 5, "seconds": 341, "bytes": 2**40, "step_seconds": 1}
    odd = read({"kind": "checkpoint", "step": 5, "seconds": "long", "bytes": -1}).checkpoint
    assert odd == {"step": 5, "seconds": None, "bytes": None}


def test_a_restart_tells_where_the_ranks_go_on_and_what_they_lost() -> None:
    told = read({"kind": "restart", "restarts": 1, "maxRestarts": 5, "reason": "Killed", "step": 40, "stepsLost": 8})
    assert (told.progress["step"], told.steps_lost, told.restarts) == (40, 8, 1)
    known = read({"kind": "phase", "name": "resuming", "step": 30, "stepsLost": 18})
    assert (known.progress["step"], known.steps_lost, known.checkpoint) == (30, 18, {"step": 30})
    assert known.resumed and not told.resumed
    untold = read({"kind": "restart", "restarts": 1})
    assert (list(untold.progress), untold.steps_lost) == (["activity"], None)


def test_a_failure_keeps_its_class_and_a_bounded_message() -> None:
    event = {"kind": "failure", "exitCode": 11, "reason": "BadData", "message": "m" * 9000, "retryable": False}
    assert read(event).failure == Failure(11, "BadData", "m" * LONGEST_MESSAGE)
    assert read({"kind": "failure"}).failure == Failure(1, "Error", "")


def test_a_result_says_where_things_lie_and_nothing_of_what_they_hold() -> None:
    event = {
        "output": "s3://models/x",
        "verdict": "held-out loss 2.1 -> 1.9",
        "report": {"audit": "s3://models/x/audit.json", "metrics": "s3://models/x/metrics.jsonl"},
        "samples": ["a record"],
    }
    change = read({"kind": "result", **event})
    assert change.finished
    assert change.output == OutputStatus(
        uri="s3://models/x", report="s3://models/x/audit.json", verdict="held-out loss 2.1 -> 1.9"
    )


def test_the_sentence_of_a_verdict_is_shown_rather_than_its_word() -> None:
    told = {"kind": "result", "verdict": "NotImproved", "verdictText": "Fine-tuning did not beat the model before it."}
    output = read(told).output
    assert output is not None
    assert output.verdict == "Fine-tuning did not beat the model before it."


def test_nothing_of_an_audit_or_of_an_unknown_kind_is_kept() -> None:
    sample = [{"text": "the content of a record", "trained": True}]
    batch = read_report(body({"kind": "audit", "sample": sample}, {"kind": "novel", "x": "the content of a record"}))
    assert [change for _, change in batch.changes] == [NOTHING, NOTHING]
    assert [number for number, _ in batch.changes] == [1, 2], "they count as seen, so that nothing is sent again"


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"", "must be JSON"),
        (b"{", "must be JSON"),
        (b"\xff\xfe", "must be JSON"),
        (b"[" * 200_000, "must be JSON"),
        (b"[]", "a JSON object"),
        (b'{"events": []}', "`stream`"),
        (body(stream=""), "`stream`"),
        (body(stream="s" * 65), "`stream`"),
        (b'{"stream": "a"}', "`events`"),
        (b'{"stream": "a", "events": {}}', "`events`"),
        (body(*[{"kind": "eval"}] * 1001), "at most 1000"),
        (b'{"stream": "a", "events": [3]}', "each event"),
        (b'{"stream": "a", "events": [{"kind": "eval"}]}', "`seq`"),
        (b'{"stream": "a", "events": [{"kind": "eval", "seq": 0}]}', "`seq`"),
        (b'{"stream": "a", "events": [{"kind": "eval", "seq": true}]}', "`seq`"),
        (b'{"stream": "a", "events": [{"kind": "eval", "seq": 9223372036854775808}]}', "`seq`"),
        (b'{"stream": "a", "events": [{"seq": 1}]}', "`kind`"),
    ],
)
def test_a_body_that_breaks_the_protocol_is_refused_with_what_was_expected(sent: bytes, message: str) -> None:
    with pytest.raises(Malformed, match=message):
        read_report(sent)


def test_an_empty_list_of_events_only_asks_for_the_answer() -> None:
    assert read_report(b'{"stream": "a", "events": []}').changes == ()


def test_a_text_that_is_no_unicode_does_not_cost_the_events_beside_it() -> None:
    sent = rb'{"stream": "a", "events": [{"seq": 1, "kind": "failure", "exitCode": 14, "message": "\udc80 s3://x"}]}'
    ((_, change),) = read_report(sent).changes
    assert change.failure == Failure(14, "Error", "s3://x")


def kubeflow(**status: Any) -> Change:
    ((_, change),) = read_kubeflow(json.dumps({"trainerStatus": status}).encode()).changes
    return change


def test_the_example_of_the_kep_is_read() -> None:
    metrics = {"loss": "0.2347", "eval_loss": "0.2451", "accuracy": "0.9876", "currentEpoch": "2", "totalEpochs": "5"}
    change = kubeflow(
        progressPercentage=45,
        estimatedRemainingSeconds=795649,
        metrics=[{"name": name, "value": value} for name, value in metrics.items()],
        lastUpdatedTime="2025-01-23T10:30:45Z",
    )
    assert Progress(**change.progress) == Progress(percent=45, loss="0.2347", eval_loss="0.2451")
    assert (change.share, change.remaining, change.finished) == (0.45, 795649, False)


def test_a_metric_of_the_callback_that_is_no_number_is_unknown() -> None:
    change = kubeflow(metrics=[{"name": "loss", "value": "nan"}, {"name": "current_step", "value": "many"}, {}])
    assert change.progress == {"loss": None, "activity": None}


def test_a_status_without_a_trainers_part_says_nothing() -> None:
    assert read_kubeflow(b"{}").changes == ()


@pytest.mark.parametrize(
    "sent",
    [b"[]", b'{"trainerStatus": 3}', b'{"trainerStatus": {"metrics": {}}}', b'{"trainerStatus": {"metrics": [1]}}'],
)
def test_a_status_of_another_shape_is_refused(sent: bytes) -> None:
    with pytest.raises(Malformed, match=r"trainerStatus|JSON object"):
        read_kubeflow(sent)
