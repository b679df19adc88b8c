"""The trainer's own client against the endpoint, over TLS: what arrives, what a run is told, what a bad day costs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from endpoint import WAIT, Endpoint, JobPod
from finetune_operator.api.report import Failure
from finetune_operator.api.status import OutputStatus
from finetune_operator.progress.forward import HERE
from finetune_operator.progress.server import BURST, MAX_BODY
from finetune_trainer.context import StopSignal
from finetune_trainer.launch.progress import Channel, HttpReporter, ask
from reports import body, commit, step

SECRET = "the content of a record"
MODEL = "s3://models/x"
NOT_WRITTEN = "the result could not be written into the job's status yet; come again"


@pytest.fixture
def channel(endpoint: Endpoint, pod: JobPod, token: str, tmp_path: Path) -> Channel:
    """What a rank of the pod is given."""
    file = tmp_path / "token"
    file.write_text(f"{token}\n")
    return Channel(endpoint.url(pod.job), token_file=str(file), ca_file=endpoint.ca_file, interval=0.05)


@pytest.fixture
def following(endpoint: Endpoint) -> Iterator[None]:
    """For a while, nobody knows who leads."""
    endpoint.leader = None
    yield
    endpoint.leader = HERE


class Told(StopSignal):
    """A stop signal that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()

    def request(self, reason: str, within: float | None = None) -> None:
        super().request(reason, within)
        self.asked.set()


def test_what_a_run_reports_arrives_merged(endpoint: Endpoint, pod: JobPod, channel: Channel) -> None:
    with HttpReporter(channel) as reporter:
        reporter.report({"kind": "phase", "name": "indexing the data", "done": 5, "total": 10})
        reporter.report(step(1, loss=2.5, tokens=4096, tokensPerSecond=812.3, epoch=0.01))
        reporter.report({"kind": "eval", "step": 1, "evalLoss": 2.25, "best": True})
        reporter.report(commit(1, best=True, seconds=0.5, bytes=10))
        reporter.report({"kind": "restart", "restarts": 1, "maxRestarts": 5, "reason": "Error", "message": "x"})
        reporter.report({"kind": "failure", "exitCode": 14, "reason": "Storage", "message": "no", "retryable": True})
    report = endpoint.mailbox.take(pod.job)
    assert report is not None
    assert report.progress is not None
    assert report.checkpoint is not None
    assert (report.progress.step, report.progress.loss, report.progress.eval_loss) == (1, "2.5", "2.25")
    assert (report.checkpoint.step, report.checkpoint.best, report.checkpoint.latest) == (1, 1, "s3://ckpt/x")
    assert (report.restarts, report.failure) == (1, Failure(14, "Storage", "no"))


def test_a_stop_is_heard_by_a_run_that_has_nothing_to_report(endpoint: Endpoint, pod: JobPod, channel: Channel) -> None:
    told = Told()
    with HttpReporter(channel, told, heartbeat=0.05):
        deadline = datetime.now(UTC) + timedelta(seconds=300)
        endpoint.mailbox.ask_stop(pod.job, deadline, "the job is suspended", attempt=1)
        assert told.asked.wait(WAIT)
    remaining = told.remaining()
    assert remaining is not None
    assert 250 < remaining <= 300
    assert told.reason == "the job is suspended"
    assert ask(channel).reason == "the job is suspended", "as a preStop hook asks"


def test_a_run_that_is_not_asked_to_stop_goes_on(channel: Channel) -> None:
    assert ask(channel).stop_by is None


@pytest.mark.usefixtures("following")
def test_nothing_but_old_progress_is_lost_while_nobody_leads(endpoint: Endpoint, pod: JobPod, channel: Channel) -> None:
    endpoint.known.outputs[pod.job] = {"uri": MODEL}
    with HttpReporter(channel) as reporter:
        reporter.report(commit(1))
        refused = len(endpoint.outcomes)
        endpoint.wait_for(lambda: "503" in endpoint.outcomes[refused - 1 :])
        reporter.report(step(1))
        reporter.report(step(2))
        reporter.report({"kind": "result", "output": MODEL})
        endpoint.leader = HERE
    report = endpoint.mailbox.take(pod.job)
    assert report is not None
    assert report.progress is not None
    assert report.checkpoint is not None
    assert (report.progress.step, report.checkpoint.step, report.finished) == (2, 1, True)


def test_a_result_is_taken_once_it_is_in_the_status_of_its_job(endpoint: Endpoint, pod: JobPod, token: str) -> None:
    result = {"kind": "result", "output": MODEL, "verdict": "Improved"}
    status, answer = endpoint.post(pod.job, body(result), token)
    assert (status, answer) == (503, {"error": NOT_WRITTEN})
    assert endpoint.mailbox.output(pod.job, 1) == OutputStatus(uri=MODEL, verdict="Improved")
    endpoint.known.outputs[pod.job] = {"uri": MODEL}  # as of an attempt before
    assert endpoint.post(pod.job, body(result), token)[0] == 503
    endpoint.known.outputs[pod.job] = {"uri": MODEL, "verdict": "Improved"}
    assert endpoint.post(pod.job, body(result), token) == (200, {"stopBy": None, "reason": ""})


def test_a_run_repeats_its_result_until_it_is_taken(endpoint: Endpoint, pod: JobPod, channel: Channel) -> None:
    reporter = HttpReporter(channel)
    refused = endpoint.outcomes.count("503")
    reporter.report({"kind": "result", "output": MODEL})
    endpoint.wait_for(lambda: endpoint.outcomes.count("503") > refused)
    endpoint.known.outputs[pod.job] = {"uri": MODEL}
    assert reporter.close(WAIT)


def test_the_result_of_an_attempt_that_another_followed_is_not_waited_for(
    endpoint: Endpoint, pod: JobPod, token: str
) -> None:
    follower = endpoint.pod(pod.job, attempt=2)
    assert endpoint.post(pod.job, body(step(1), stream="b"), endpoint.token(follower))[0] == 200
    status, answer = endpoint.post(pod.job, body({"kind": "result", "output": MODEL}), token)
    assert (status, answer["reason"]) == (200, "attempt 2 has begun")


def test_a_body_that_is_too_large_costs_itself_and_not_the_reports_after_it(
    endpoint: Endpoint, pod: JobPod, channel: Channel, caplog: pytest.LogCaptureFixture
) -> None:
    with HttpReporter(channel) as reporter:
        reporter.report({"kind": "audit", "sample": [{"text": "x" * MAX_BODY, "trained": True}]})
        endpoint.wait_for(lambda: "413" in endpoint.outcomes)
        reporter.report({"kind": "failure", "exitCode": 14})
    report = endpoint.mailbox.take(pod.job)
    assert report is not None
    assert report.failure is not None
    assert "refused 1 events" in caplog.text


def test_a_large_body_within_the_limit_is_taken(endpoint: Endpoint, pod: JobPod, token: str) -> None:
    padding = {"kind": "audit", "sample": "x" * (MAX_BODY - 200)}
    assert endpoint.post(pod.job, body(padding, step(3)), token)[0] == 200


def test_the_content_of_records_is_neither_kept_nor_logged(
    endpoint: Endpoint, pod: JobPod, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    audit = {"kind": "audit", "sample": [{"text": f"{SECRET} 4711", "trained": True}]}
    assert endpoint.post(pod.job, body(audit), token)[0] == 200
    broken = body(audit, {"kind": "result", "verdict": 3, "samples": [f"{SECRET} 4711"]}) + b"}"
    assert endpoint.post(pod.job, broken, token)[0] == 400
    assert SECRET not in caplog.text
    assert SECRET not in repr(vars(endpoint.mailbox))
    assert pod.job in repr(vars(endpoint.mailbox)), "it was taken, and this is where it would be"


@pytest.mark.parametrize(
    ("sent", "status"), [(b"", 400), (b"{", 400), (b"[]", 400), (b'{"stream": "a"}', 400), (body({"kind": 3}), 400)]
)
def test_a_malformed_report_is_refused_and_the_next_is_taken(
    endpoint: Endpoint, pod: JobPod, token: str, sent: bytes, status: int
) -> None:
    assert endpoint.post(pod.job, sent, token)[0] == status
    assert endpoint.mailbox.take(pod.job) is None
    assert endpoint.post(pod.job, body(), token) == (200, {"stopBy": None, "reason": ""})


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Transfer-Encoding": "chunked"}, 411),
        ({"Content-Encoding": "gzip"}, 415),
        ({"Content-Length": "5000000"}, 413),
    ],
)
def test_a_body_that_hides_its_size_is_refused_unread(
    endpoint: Endpoint, pod: JobPod, token: str, headers: dict[str, str], status: int
) -> None:
    connection = endpoint.connect()
    send = {"Authorization": f"Bearer {token}", "Content-Length": "10"} | headers
    if "Transfer-Encoding" in headers:
        del send["Content-Length"]
    connection.putrequest("POST", f"/v1/jobs/{pod.job}/progress")
    for name, value in send.items():
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.getresponse().status == status
    connection.close()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/jobs/1/progress", 405), ("POST", "/v1/jobs/../progress", 404), ("POST", "/", 404), ("GET", "/", 404)],
)
def test_there_is_nothing_else_here(endpoint: Endpoint, method: str, path: str, status: int) -> None:
    connection = endpoint.connect()
    connection.request(method, path)
    assert connection.getresponse().status == status
    connection.close()


def test_a_job_that_reports_all_the_time_is_held_back_and_others_are_not(
    endpoint: Endpoint, pod: JobPod, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    other = endpoint.pod(endpoint.job())
    others_token = endpoint.token(other)
    connection = endpoint.connect()
    statuses = []
    for _ in range(int(BURST) + 60):
        connection.request("POST", f"/v1/jobs/{pod.job}/progress", body(), {"Authorization": f"Bearer {token}"})
        response = connection.getresponse()
        statuses.append(response.status)
        response.read()
    connection.close()
    assert 429 in statuses
    assert statuses[:90] == [200] * 90
    assert endpoint.post(other.job, body(step(1)), others_token)[0] == 200
    lines = [one for one in caplog.messages if "reports too often" in one]
    assert len(lines) == 1, "a refusal that repeats fills no log"


def test_bodies_that_are_held_at_once_are_bounded(
    endpoint: Endpoint, pod: JobPod, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_operator.progress.server.MAX_HELD", 100_000)
    waiting = endpoint.connect()
    waiting.putrequest("POST", f"/v1/jobs/{pod.job}/progress")
    waiting.putheader("Authorization", f"Bearer {token}")
    waiting.putheader("Content-Length", "90000")
    waiting.endheaders()
    large = body({"kind": "audit", "sample": "x" * 20_000})
    status: Any = None
    while status != 503:  # until the first one's head has come
        status, _ = endpoint.post(pod.job, large, token)
        assert status in (200, 503)
    waiting.send(b" " * 90_000)
    assert waiting.getresponse().status == 400
    waiting.close()
    assert endpoint.post(pod.job, large, token)[0] == 200
