"""The progress protocol over real HTTP: who may report, what is merged, what is never lost, how a stop is asked for."""

from __future__ import annotations

import io
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.cli.run import LauncherName, _supervise
from finetune_trainer.context import StopSignal
from finetune_trainer.launch.progress import URL, Channel, HttpReporter, ask, channel_of
from finetune_trainer.launch.receiver import MAX_BODY, NO_DEADLINE, Receiver
from finetune_trainer.launch.render import JsonView
from launch_job import manifest, plan_of

WAIT = 20.0


class Inbox:
    """Keeps events, and holds the receiver's answer back while `gate` is closed."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.arrived = threading.Condition()

    def take(self, event: Mapping[str, object]) -> None:
        with self.arrived:
            self.events.append(dict(event))
            self.arrived.notify_all()
        assert self.gate.wait(WAIT)

    def wait_for(self, condition: Callable[[list[dict[str, Any]]], bool]) -> None:
        with self.arrived:
            assert self.arrived.wait_for(lambda: condition(self.events), WAIT), self.events


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def stop() -> StopSignal:
    return StopSignal()


@pytest.fixture
def receiver(inbox: Inbox, stop: StopSignal) -> Iterator[Receiver]:
    with Receiver(inbox.take, stop) as server:
        yield server


def post(channel: Channel, body: bytes, token: str | None = None) -> Any:
    headers = {"Authorization": f"Bearer {channel.token if token is None else token}"}
    request = urllib.request.Request(channel.url, data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=WAIT) as response:
        return json.loads(response.read())


def progress(step: int) -> dict[str, object]:
    return {"kind": "progress", "step": step, "totalSteps": 100, "percent": float(step)}


def test_events_arrive_in_order_and_are_flushed_at_the_end(receiver: Receiver, inbox: Inbox) -> None:
    with HttpReporter(receiver.channel()) as reporter:
        reporter.report({"kind": "phase", "name": "training"})
        reporter.report({"kind": "eval", "step": 1, "evalLoss": 2.0})
        reporter.report({"kind": "result", "finalStep": 1})
    assert [event["kind"] for event in inbox.events] == ["phase", "eval", "result"]


def test_while_one_request_is_in_flight_only_the_newest_progress_is_kept(receiver: Receiver, inbox: Inbox) -> None:
    inbox.gate.clear()
    with HttpReporter(receiver.channel()) as reporter:
        reporter.report({"kind": "phase", "name": "training"})
        inbox.wait_for(lambda events: len(events) == 1)
        for step in range(1, 51):
            reporter.report(progress(step))
            if step == 20:
                reporter.report({"kind": "eval", "step": 20, "evalLoss": 2.0})
        inbox.gate.set()
    assert [(event["kind"], event.get("step")) for event in inbox.events] == [
        ("phase", None),
        ("eval", 20),
        ("progress", 50),
    ]


def test_a_phase_that_counts_is_merged_and_the_next_phase_is_not(receiver: Receiver, inbox: Inbox) -> None:
    inbox.gate.clear()
    with HttpReporter(receiver.channel()) as reporter:
        reporter.report({"kind": "phase", "name": "fetching model", "done": 0})
        inbox.wait_for(lambda events: len(events) == 1)
        for done in range(1, 30):
            reporter.report({"kind": "phase", "name": "fetching model", "done": done})
        reporter.report({"kind": "phase", "name": "indexing data"})
        inbox.gate.set()
    assert [(event["name"], event.get("done")) for event in inbox.events] == [
        ("fetching model", 0),
        ("fetching model", 29),
        ("indexing data", None),
    ]


def test_reporting_never_waits_for_the_receiver(receiver: Receiver, inbox: Inbox) -> None:
    inbox.gate.clear()
    with HttpReporter(receiver.channel()) as reporter:
        reporter.report({"kind": "phase", "name": "training"})
        inbox.wait_for(lambda events: len(events) == 1)
        answers = [reporter.report(progress(step)) for step in range(1, 10)]  # would wait here for ever
        assert all(answer.stop_by is None for answer in answers)
        inbox.gate.set()


def test_an_answer_that_asks_for_a_stop_reaches_the_rank_even_when_it_reports_nothing(
    receiver: Receiver, inbox: Inbox, stop: StopSignal
) -> None:
    asked = threading.Event()

    class Told(StopSignal):
        def request(self, reason: str, within: float | None = None) -> None:
            super().request(reason, within)
            asked.set()

    told = Told()
    with HttpReporter(receiver.channel(interval=0.05), told, heartbeat=0.05) as reporter:
        stop.request("SIGTERM received", within=60.0)
        assert asked.wait(WAIT)
        remaining = told.remaining()
        assert told.requested
        assert remaining is not None
        assert 0 < remaining <= 60
        assert told.reason == "SIGTERM received"
        assert reporter.report(progress(1)).stop_by is not None


def test_a_stop_without_a_deadline_is_answered_with_a_day(receiver: Receiver, stop: StopSignal) -> None:
    assert ask(receiver.channel()).stop_by is None
    stop.request("SIGINT received")
    assert ask(receiver.channel()).stop_by == NO_DEADLINE


@pytest.mark.parametrize("token", ["", "wrong"])
def test_a_report_without_the_token_is_refused(receiver: Receiver, inbox: Inbox, token: str) -> None:
    body = json.dumps({"stream": "a", "events": [{"seq": 1, **progress(1)}]}).encode()
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(receiver.channel(), body, token)
    assert refused.value.code == 401
    assert inbox.events == []


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"stream": "a"}', b'{"stream": "a", "events": [{"kind": "eval"}]}', b'{"events": [3]}'],
)
def test_a_malformed_report_is_refused_and_the_receiver_goes_on(receiver: Receiver, inbox: Inbox, body: bytes) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(receiver.channel(), body)
    assert refused.value.code == 400
    assert post(receiver.channel(), b'{"stream": "a", "events": []}') == {"stopBy": None, "reason": ""}
    assert inbox.events == []


def test_a_body_over_the_limit_is_refused_unread(receiver: Receiver) -> None:
    request = urllib.request.Request(receiver.channel().url, data=b"x", method="POST")
    request.add_header("Authorization", f"Bearer {receiver.channel().token}")
    request.add_header("Content-Length", str(MAX_BODY + 1))
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=WAIT)
    assert refused.value.code == 413


def test_a_repeated_request_delivers_nothing_twice(receiver: Receiver, inbox: Inbox) -> None:
    body = json.dumps({"stream": "a", "events": [{"seq": 1, "kind": "eval"}, {"seq": 2, "kind": "eval"}]}).encode()
    more = json.dumps({"stream": "a", "events": [{"seq": 2, "kind": "eval"}, {"seq": 3, "kind": "eval"}]}).encode()
    for request in (body, body, more):
        post(receiver.channel(), request)
    assert len(inbox.events) == 3


def test_a_receiver_that_comes_late_gets_everything_but_old_progress(inbox: Inbox, stop: StopSignal) -> None:
    with Receiver(inbox.take, stop) as first:
        channel = first.channel(interval=0.05)
    reporter = HttpReporter(channel)  # nobody listens there any more
    reporter.report({"kind": "eval", "step": 1, "evalLoss": 2.0})
    reporter.report(progress(1))
    reporter.report(progress(2))
    reporter.report({"kind": "result", "finalStep": 2})
    assert not reporter.close(deadline=0.2)
    assert inbox.events == []

    class SameAddress(Receiver):
        def authorized(self, header: str | None) -> bool:
            return header == f"Bearer {channel.token}"

    port = int(channel.url.split(":")[2].split("/")[0])
    with SameAddress(inbox.take, stop, port=port):
        inbox.wait_for(lambda events: len(events) == 3)
    assert [event["kind"] for event in inbox.events] == ["eval", "progress", "result"]


def test_a_rotated_token_file_is_read_again(receiver: Receiver, inbox: Inbox, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("expired\n")
    channel = replace(receiver.channel(interval=0.05), token="", token_file=str(file))
    with HttpReporter(channel) as reporter:
        reporter.report({"kind": "eval", "step": 1})
        file.write_text(receiver.channel().token + "\n")
        inbox.wait_for(lambda events: len(events) == 1)


def test_numbers_of_numpy_and_losses_that_are_not_finite_become_json(receiver: Receiver, inbox: Inbox) -> None:
    import numpy

    with HttpReporter(receiver.channel()) as reporter:
        reporter.report({"kind": "eval", "evalLoss": numpy.float32(0.5), "baseLoss": float("nan"), "uri": Path("/x")})
    assert inbox.events == [{"kind": "eval", "evalLoss": 0.5, "baseLoss": None, "uri": "/x"}]


def test_a_channel_survives_the_environment_and_needs_a_url() -> None:
    channel = Channel("http://h:1/progress", token_file="/var/run/token", ca_file="/ca.pem", interval=10.0)
    assert channel_of(channel.environ()) == channel
    assert channel_of({}) is None


def test_a_run_tells_its_end_for_as_long_as_another_operator_needs_to_take_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seconds stand for half a minute; nobody listens, and there is no model."""
    monkeypatch.setattr("finetune_trainer.launch.progress.LAST_REPORTS", 0.5)
    monkeypatch.setenv(URL, "http://127.0.0.1:9/progress")
    checkpoint = {"uri": (tmp_path / "checkpoints").as_uri(), "everySteps": 1}
    made = plan_of(manifest("nobody-hears", checkpoint=checkpoint, output={"uri": (tmp_path / "out").as_uri()}))
    began = time.monotonic()
    ended = _supervise(JsonView(io.StringIO()), made, LauncherName.TORCHRUN, None)
    assert ended.failure is not None
    assert 0.5 <= time.monotonic() - began < 8
