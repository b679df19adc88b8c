"""Events reach the API server in the end, once each, and nobody ever waits for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from control_plane import ControlPlane
from finetune_operator.core import events as module
from finetune_operator.core.events import EventRecorder, event_body
from finetune_operator.core.metrics import REGISTRY
from finetune_operator.kube import Client, Object
from finetune_operator.kube.resources import EVENTS
from kube_exchange import Action
from kube_faults import drop, hold, lose_answer, refuse
from kube_proxy import KubeProxy

UID = "6ea0043d-2c8b-4efe-89f2-a6e31148ccda"


def job(namespace: str, name: str = "bot", uid: str = UID) -> Object:
    metadata = {"namespace": namespace, "name": name, "uid": uid, "resourceVersion": "7"}
    return {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": metadata}


@asynccontextmanager
async def recording(client: Client) -> AsyncIterator[EventRecorder]:
    recorder = EventRecorder(client, "operator-0")
    running = asyncio.create_task(recorder.run())
    yield recorder
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def written(client: Client, namespace: str, count: int) -> list[Object]:
    """Wait until so many events are there, counting repetitions."""
    while True:
        found: list[Object] = []
        async for page in client.pages(EVENTS, namespace=namespace):
            found += page.items
        if sum(event["count"] for event in found) >= count:
            return found
        await asyncio.sleep(0.05)


def use(kubeconfig: Path, body: Callable[[Client], Awaitable[None]]) -> None:
    async def main() -> None:
        async with await Client.connect(str(kubeconfig)) as client:
            await body(client)

    asyncio.run(asyncio.wait_for(main(), 60))


def dropped() -> float:
    return REGISTRY.get_sample_value("finetune_events_total", {"result": "dropped"}) or 0.0


def test_an_event_names_its_object_and_tells_what_happened(
    control_plane: ControlPlane, direct: Path, namespace: str
) -> None:
    async def body(client: Client) -> None:
        async with recording(client) as recorder:
            recorder.event(job(namespace), "Warning", "NodeLost", "node gpu-7 is gone", "Restart")
            (event,) = await written(client, namespace, 1)
        assert event["involvedObject"] == {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "namespace": namespace,
            "name": "bot",
            "uid": UID,
            "resourceVersion": "7",
        }
        assert (event["type"], event["reason"], event["action"]) == ("Warning", "NodeLost", "Restart")
        assert (event["message"], event["reportingInstance"]) == ("node gpu-7 is gone", "operator-0")
        assert event["firstTimestamp"] == event["lastTimestamp"] is not None, "kubectl describe orders by it"

    use(direct, body)
    assert "node gpu-7 is gone" in control_plane.kubectl("events", "--for=FineTuneJob/bot", namespace=namespace)


def test_what_happens_again_and_again_is_one_event_with_a_count(direct: Path, namespace: str) -> None:
    async def body(client: Client) -> None:
        async with recording(client) as recorder:
            for _ in range(30):
                recorder.event(job(namespace), "Normal", "Queued", "waits", "Wait")
            recorder.event(job(namespace), "Normal", "Queued", "waits for another", "Wait")
            found = await written(client, namespace, 31)
        assert sorted(event["count"] for event in found) == [1, 30]

    use(direct, body)


def test_an_event_that_another_process_wrote_is_counted_up(direct: Path, namespace: str) -> None:
    async def body(client: Client) -> None:
        for times in range(1, 4):
            async with recording(client) as recorder:
                recorder.event(job(namespace), "Normal", "Started", "attempt 1", "Start")
                (event,) = await written(client, namespace, times)
        assert event["count"] == 3

    use(direct, body)


def test_a_repetition_within_the_minute_is_written_later(direct: Path, namespace: str) -> None:
    clock = [1000.0]

    async def body(client: Client) -> None:
        recorder = EventRecorder(client, "operator-0", clock=lambda: clock[0])
        running = asyncio.create_task(recorder.run())
        recorder.event(job(namespace), "Normal", "Queued", "waits", "Wait")
        await written(client, namespace, 1)
        clock[0] += 30
        recorder.event(job(namespace), "Normal", "Queued", "waits", "Wait")
        recorder.event(job(namespace), "Normal", "Other", "passes by", "Wait")
        await written(client, namespace, 2)
        (waits,) = [event for event in await written(client, namespace, 2) if event["reason"] == "Queued"]
        assert waits["count"] == 1
        clock[0] += 30
        recorder.event(job(namespace), "Normal", "Third", "wakes the writer", "Wait")
        await written(client, namespace, 4)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    use(direct, body)


def test_what_happens_again_while_it_is_being_written_is_counted_later(proxy: KubeProxy, namespace: str) -> None:
    clock = [1000.0]
    release = threading.Event()

    async def body(client: Client) -> None:
        recorder = EventRecorder(client, "operator-0", clock=lambda: clock[0])
        running = asyncio.create_task(recorder.run())
        recorder.event(job(namespace), "Normal", "Queued", "waits", "Wait")
        while not proxy.count("create", "events"):
            await asyncio.sleep(0.01)
        recorder.event(job(namespace), "Normal", "Queued", "waits", "Wait")
        release.set()
        await written(client, namespace, 1)
        recorder.event(job(namespace), "Normal", "Other", "passes by", "Wait")
        await written(client, namespace, 2)
        clock[0] += 60
        recorder.event(job(namespace), "Normal", "Third", "wakes the writer", "Wait")
        await written(client, namespace, 4)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    proxy.inject("create", hold(release), resource="events")
    use(proxy.kubeconfig(), body)


@pytest.mark.parametrize(
    "fault", [drop(), lose_answer(), refuse(500), refuse(429), refuse(503)], ids=["drop", "lost", "500", "429", "503"]
)
def test_an_event_survives_a_fault(proxy: KubeProxy, namespace: str, fault: Action) -> None:
    async def body(client: Client) -> None:
        async with recording(client) as recorder:
            recorder.event(job(namespace), "Normal", "Started", "attempt 1", "Start")
            (event,) = await written(client, namespace, 1)
        assert event["reason"] == "Started"

    proxy.inject("create", fault, resource="events")
    use(proxy.kubeconfig(), body)


def test_an_event_that_is_refused_is_dropped_and_counted(direct: Path, namespace: str) -> None:
    async def body(client: Client) -> None:
        before = dropped()
        async with recording(client) as recorder:
            recorder.event(job("no-such-namespace"), "Normal", "Started", "attempt 1", "Start")
            recorder.event(job(namespace), "Normal", "Started", "attempt 1", "Start")
            await written(client, namespace, 1)
            while dropped() == before:
                await asyncio.sleep(0.01)
        assert dropped() == before + 1

    use(direct, body)


def test_what_is_too_much_to_hold_is_dropped_and_nothing_waits(
    direct: Path, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 3)

    async def body(client: Client) -> None:
        before = dropped()
        recorder = EventRecorder(client, "operator-0")  # and nobody writes
        for number in range(10):
            recorder.event(job(namespace), "Normal", "Started", f"attempt {number}", "Start")
        assert dropped() == before + 7

    use(direct, body)


def test_a_long_note_is_cut_between_two_characters() -> None:
    note = event_body(job("team-a"), "Normal", "Started", "\u00fc" * 600, "Start", "x")["message"]
    assert note == "\u00fc" * 512


def test_the_longest_names_and_notes_are_taken(direct: Path, namespace: str) -> None:
    async def body(client: Client) -> None:
        async with recording(client) as recorder:
            recorder.event(job(namespace, "x" * 253), "Normal", "Started", "\u00fc" * 2000, "Start")
            await written(client, namespace, 1)

    use(direct, body)


def test_an_object_of_the_cluster_has_its_events_in_the_default_namespace() -> None:
    runtime = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneRuntime",
        "metadata": {"name": "default", "uid": UID},
    }
    body = event_body(runtime, "Warning", "Invalid", "no image", "Validate", "x")
    assert body["metadata"]["namespace"] == "default"
    assert "namespace" not in body["involvedObject"]


def test_events_of_different_objects_or_happenings_have_different_names() -> None:
    def name(obj: Object, *what: str) -> str:
        found: str = event_body(obj, "Normal", what[0], what[1], "Act", "x")["metadata"]["name"]
        return found

    same = name(job("ns"), "A", "b")
    others = {name(job("ns"), "A", "c"), name(job("ns"), "B", "b"), name(job("ns", uid="other"), "A", "b")}
    assert name(job("ns"), "A", "b") == same
    assert len({same} | others) == 4
