"""Two replicas: the one that does not lead hands reports on, and what goes wrong between them costs a repetition."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from control_plane import ControlPlane
from endpoint import WAIT, Endpoint, JobPod
from finetune_operator.core.lease import Lease
from finetune_operator.kube import Client
from finetune_operator.progress.forward import ADDRESS, HERE, leader_address
from finetune_operator.progress.server import MAX_BODY
from finetune_trainer.context import StopSignal
from finetune_trainer.launch.progress import Channel, HttpReporter
from reports import body, commit, step


@pytest.fixture(scope="module")
def second(control_plane: ControlPlane, home: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """Another replica with the same certificate; it knows no job and no pod."""
    with Endpoint(control_plane, home, tmp_path_factory.mktemp("second")) as running:
        yield running


@pytest.fixture
def follower(endpoint: Endpoint, second: Endpoint) -> Iterator[Endpoint]:
    """The replica that does not lead."""
    second.leader = endpoint.address
    yield second
    endpoint.leader = HERE


def test_a_report_reaches_the_leader_and_its_stop_the_run(
    endpoint: Endpoint, follower: Endpoint, pod: JobPod, token: str
) -> None:
    asked = threading.Event()

    class Told(StopSignal):
        def request(self, reason: str, within: float | None = None) -> None:
            super().request(reason, within)
            asked.set()

    told = Told()
    endpoint.mailbox.ask_stop(pod.job, datetime.now(UTC) + timedelta(seconds=60), "the job is deleted")
    channel = Channel(follower.url(pod.job), token=token, ca_file=follower.ca_file, interval=0.05)
    with HttpReporter(channel, told) as reporter:
        reporter.report(commit(5))
        assert asked.wait(20)
    assert told.reason == "the job is deleted"
    report = endpoint.mailbox.take(pod.job)
    assert report is not None
    assert report.checkpoint is not None
    assert report.checkpoint.step == 5
    assert len(follower.mailbox) == 0
    assert follower.reviews == 0, "the leader judges"


def test_a_repetition_that_takes_the_other_way_is_still_one(
    endpoint: Endpoint, follower: Endpoint, pod: JobPod, token: str
) -> None:
    first, longer = body(step(1)), body(step(1), step(2))
    assert endpoint.post(pod.job, longer, token)[0] == 200
    report = endpoint.mailbox.take(pod.job)
    assert follower.post(pod.job, first, token)[0] == 200
    assert endpoint.mailbox._boxes[pod.job].report == report


def test_the_leaders_refusals_come_back_as_they_are(
    endpoint: Endpoint, follower: Endpoint, pod: JobPod, token: str
) -> None:
    assert follower.post(pod.job, body(), "x.y.z")[0] == 401
    assert follower.post(pod.job, b"{", token)[0] == 400
    assert follower.post("unknown", body(), token)[0] == 404
    assert follower.post(pod.job, b"", token, **{"Content-Length": str(MAX_BODY + 1)})[0] == 413


def test_a_large_body_passes_through(endpoint: Endpoint, follower: Endpoint, pod: JobPod, token: str) -> None:
    large = body({"kind": "audit", "sample": "x" * (MAX_BODY - 200)}, step(4))
    assert follower.post(pod.job, large, token) == (200, {"stopBy": None, "reason": ""})
    assert endpoint.mailbox.take(pod.job) is not None


def test_while_leadership_changes_nothing_goes_round_in_circles(
    endpoint: Endpoint, follower: Endpoint, pod: JobPod, token: str
) -> None:
    endpoint.leader = follower.address
    handed_on = follower.outcomes.count("forwarded")
    status, answer = follower.post(pod.job, body(step(1)), token)
    assert (status, answer["error"]) == (503, "no replica leads at the moment; come again")
    assert follower.outcomes.count("forwarded") == handed_on + 1
    endpoint.leader = HERE
    assert follower.post(pod.job, body(step(1)), token)[0] == 200


def test_a_leader_that_is_gone_costs_a_repetition(
    endpoint: Endpoint, follower: Endpoint, pod: JobPod, token: str
) -> None:
    follower.leader = "127.0.0.1:1"
    status, answer = follower.post(pod.job, body(step(1)), token)
    assert (status, answer["error"]) == (503, "the leading replica does not answer; come again")


def test_a_token_is_not_told_to_who_is_no_replica_of_ours(
    control_plane: ControlPlane, follower: Endpoint, pod: JobPod, token: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("impostor")
    with Endpoint(control_plane, follower.namespace, folder, secret="impostor-tls") as impostor:
        follower.leader = impostor.address
        assert follower.post(pod.job, body(step(1)), token)[0] == 503
        assert impostor.outcomes == []


def test_the_lease_says_where_reports_go(control_plane: ControlPlane, home: str) -> None:
    async def play() -> None:
        leads = asyncio.Event()

        async def lead() -> None:
            leads.set()
            await asyncio.Event().wait()

        config = str(control_plane.kubeconfig())
        async with await Client.connect(config) as one, await Client.connect(config) as other:
            first = Lease(one, home, "reports", "first", annotations={ADDRESS: "10.0.0.1:8443"})
            second = Lease(other, home, "reports", "second", annotations={ADDRESS: "10.0.0.2:8443"})
            assert leader_address(second) is None
            tasks = [asyncio.create_task(first.run(lead))]
            await asyncio.wait_for(leads.wait(), WAIT)
            tasks.append(asyncio.create_task(second.run(lead)))
            async with asyncio.timeout(WAIT):
                while leader_address(second) is None:  # until it has read the lease
                    await asyncio.sleep(0.01)
            assert (leader_address(first), leader_address(second)) == (HERE, "10.0.0.1:8443")
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(play())
