"""The client does with a real API server what its methods say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from control_plane import ControlPlane
from finetune_operator.kube import (
    AlreadyExists,
    Client,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    Object,
    Page,
    WatchEvent,
)
from finetune_operator.kube.client import STALL_SECONDS
from finetune_operator.kube.resources import CONFIGMAPS, PODS, RAYJOBS, Resource
from watched_maps import LABEL, config_map

T = TypeVar("T")


@pytest.fixture
def kubeconfig(control_plane: ControlPlane) -> Path:
    return control_plane.kubeconfig("admin")


def use(kubeconfig: Path, body: Callable[[Client], Awaitable[T]], seconds: float = 60.0) -> T:
    """Run `body` with a client."""

    async def main() -> T:
        async with await Client.connect(str(kubeconfig)) as client:
            return await body(client)

    return asyncio.run(asyncio.wait_for(main(), seconds))


def version(obj: Object) -> str:
    found: str = obj["metadata"]["resourceVersion"]
    return found


def test_an_object_is_created_read_patched_and_deleted(kubeconfig: Path, namespace: str) -> None:
    async def body(client: Client) -> None:
        made = await client.create(CONFIGMAPS, config_map(namespace, "a"))
        with pytest.raises(AlreadyExists):
            await client.create(CONFIGMAPS, config_map(namespace, "a"))
        assert await client.get(CONFIGMAPS, namespace, "a") == made
        patched = await client.patch(CONFIGMAPS, namespace, "a", {"data": {"more": "2"}})
        assert patched["data"] == {"value": "1", "more": "2"}
        assert await client.delete(CONFIGMAPS, namespace, "a") is None
        with pytest.raises(NotFound):
            await client.get(CONFIGMAPS, namespace, "a")
        with pytest.raises(NotFound):
            await client.delete(CONFIGMAPS, namespace, "a")

    use(kubeconfig, body)


def test_a_patch_and_a_delete_meet_only_the_object_that_they_name(kubeconfig: Path, namespace: str) -> None:
    async def body(client: Client) -> None:
        old = await client.create(CONFIGMAPS, config_map(namespace, "a"))
        await client.delete(CONFIGMAPS, namespace, "a")
        made = await client.create(CONFIGMAPS, config_map(namespace, "a"))
        other = {"metadata": {"uid": old["metadata"]["uid"]}, "data": {"value": "2"}}
        with pytest.raises(Conflict, match="is another object now"):
            await client.patch(CONFIGMAPS, namespace, "a", other)
        with pytest.raises(Conflict):
            await client.delete(CONFIGMAPS, namespace, "a", uid=old["metadata"]["uid"])
        stale = {"metadata": {"resourceVersion": version(old)}, "data": {"value": "2"}}
        with pytest.raises(Conflict):
            await client.patch(CONFIGMAPS, namespace, "a", stale)
        with pytest.raises(Conflict):
            await client.delete(CONFIGMAPS, namespace, "a", resource_version=version(old))
        assert await client.get(CONFIGMAPS, namespace, "a") == made
        precise = {"uid": made["metadata"]["uid"], "resourceVersion": version(made)}
        assert (await client.patch(CONFIGMAPS, namespace, "a", {"metadata": precise, "data": {"value": "3"}}))["data"]
        assert await client.delete(CONFIGMAPS, namespace, "a", uid=made["metadata"]["uid"]) is None

    use(kubeconfig, body)


def test_an_apply_sets_its_own_fields_and_no_others(kubeconfig: Path, namespace: str) -> None:
    async def body(client: Client) -> None:
        wanted = config_map(namespace, "a") | {"data": {"ours": "1", "dropped": "1"}}
        tried = await client.apply(CONFIGMAPS, wanted, dry_run=True)
        assert tried["data"]["ours"] == "1"
        with pytest.raises(NotFound):
            await client.get(CONFIGMAPS, namespace, "a")
        await client.apply(CONFIGMAPS, wanted)
        await client.patch(CONFIGMAPS, namespace, "a", {"data": {"theirs": "1"}})
        applied = await client.apply(CONFIGMAPS, wanted | {"data": {"ours": "2"}})
        assert applied["data"] == {"ours": "2", "theirs": "1"}
        again = await client.apply(CONFIGMAPS, wanted | {"data": {"ours": "2"}})
        assert version(again) == version(applied)  # nothing was written

    use(kubeconfig, body)


def test_what_something_holds_is_returned_by_delete(kubeconfig: Path, namespace: str) -> None:
    async def body(client: Client) -> None:
        held = config_map(namespace, "a")
        held["metadata"]["finalizers"] = ["finetune.dev/test"]
        await client.create(CONFIGMAPS, held)
        left = await client.delete(CONFIGMAPS, namespace, "a")
        assert left is not None
        assert left["metadata"]["deletionTimestamp"]
        await client.patch(CONFIGMAPS, namespace, "a", {"metadata": {"finalizers": None}})
        with pytest.raises(NotFound):
            await client.get(CONFIGMAPS, namespace, "a")

    use(kubeconfig, body)


def test_a_pod_is_deleted_at_once_with_no_grace(kubeconfig: Path, namespace: str) -> None:
    spec = {"containers": [{"name": "main", "image": "localhost/none:1"}], "nodeName": "gone"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": "p"}, "spec": spec}

    async def body(client: Client) -> None:
        await client.create(PODS, pod)
        await client.delete(PODS, namespace, "p")
        assert (await client.get(PODS, namespace, "p"))["metadata"]["deletionTimestamp"]  # no kubelet ends it
        await client.delete(PODS, namespace, "p", grace_seconds=0)
        with pytest.raises(NotFound):
            await client.get(PODS, namespace, "p")

    use(kubeconfig, body)


def test_a_status_is_written_apart_from_the_rest(kubeconfig: Path, namespace: str) -> None:
    pod = {"spec": {"containers": [{"name": "main", "image": "localhost/none:1"}]}}
    job = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"namespace": namespace, "name": "r"},
        "spec": {"rayClusterSpec": {"headGroupSpec": {"rayStartParams": {}, "template": pod}}},
    }

    async def body(client: Client) -> None:
        await client.create(RAYJOBS, job)
        change = {"spec": {"suspend": True}, "status": {"jobStatus": "RUNNING"}}
        written = await client.patch(RAYJOBS, namespace, "r", change, subresource="status")
        assert written["status"]["jobStatus"] == "RUNNING"
        assert "suspend" not in written["spec"]

    use(kubeconfig, body)


def test_a_list_comes_in_pages_of_one_moment(kubeconfig: Path, namespace: str) -> None:
    async def body(client: Client) -> list[Page]:
        for name in "abcde":
            await client.create(CONFIGMAPS, config_map(namespace, name))
        pages = []
        async for page in client.pages(CONFIGMAPS, namespace=namespace, selector=f"{LABEL}=yes", limit=2):
            pages.append(page)
            await client.create(CONFIGMAPS, config_map(namespace, f"z{len(pages)}"))
        return pages

    pages = use(kubeconfig, body)
    assert [[item["metadata"]["name"] for item in page.items] for page in pages] == [["a", "b"], ["c", "d"], ["e"]]
    assert len({page.resource_version for page in pages}) == 1
    assert pages[0].items[0]["kind"] == "ConfigMap"
    assert pages[0].items[0]["apiVersion"] == "v1"


def test_a_watch_tells_what_happens_until_its_time_is_over(kubeconfig: Path, namespace: str) -> None:
    async def body(client: Client) -> list[WatchEvent]:
        made = await client.create(CONFIGMAPS, config_map(namespace, "a"))
        await client.create(CONFIGMAPS, config_map(namespace, "b"))
        await client.delete(CONFIGMAPS, namespace, "a")
        async with client.watch(CONFIGMAPS, version(made), namespace=namespace, selector=LABEL, timeout=1) as events:
            return [event async for event in events]

    events = use(kubeconfig, body)
    assert [(event.type, event.object["metadata"]["name"]) for event in events] == [("ADDED", "b"), ("DELETED", "a")]
    assert int(version(events[0].object)) < int(version(events[1].object))


@pytest.mark.slow
def test_a_quiet_watch_gets_a_bookmark_before_it_counts_as_stalled(kubeconfig: Path, namespace: str) -> None:
    async def body(client: Client) -> float:
        made = await client.create(CONFIGMAPS, config_map(namespace, "a"))
        started = time.monotonic()
        async with client.watch(CONFIGMAPS, version(made), namespace=namespace, timeout=120) as events:
            async for event in events:
                assert event.type == "BOOKMARK"
                assert int(version(event.object)) >= int(version(made))
                break
        return time.monotonic() - started

    assert use(kubeconfig, body, 150) < 0.8 * STALL_SECONDS


def test_a_kind_that_the_server_does_not_know_is_not_found(kubeconfig: Path, namespace: str) -> None:
    unknown = Resource("none.example", "v1", "things", "Thing")
    with pytest.raises(NotFound):
        use(kubeconfig, lambda client: client.get(unknown, namespace, "a"))


def test_what_rbac_forbids_is_forbidden(control_plane: ControlPlane, namespace: str) -> None:
    with pytest.raises(Forbidden, match='User "tenant" cannot get resource "configmaps"'):
        use(control_plane.kubeconfig("tenant"), lambda client: client.get(CONFIGMAPS, namespace, "a"))


def test_an_invalid_object_names_its_fields(kubeconfig: Path, namespace: str) -> None:
    with pytest.raises(Invalid) as caught:
        use(kubeconfig, lambda client: client.create(CONFIGMAPS, config_map(namespace, "Not A Name")))
    assert [cause["field"] for cause in caught.value.details["causes"]] == ["metadata.name"]


def test_the_guard_keeps_every_write_back_and_no_read(kubeconfig: Path, namespace: str) -> None:
    class Halt(Exception):
        pass

    def guard() -> None:
        raise Halt

    async def body(client: Client) -> None:
        await client.create(CONFIGMAPS, config_map(namespace, "a"))
        client.guard_writes(guard)
        writes: list[Callable[[], Awaitable[object]]] = [
            lambda: client.create(CONFIGMAPS, config_map(namespace, "b")),
            lambda: client.apply(CONFIGMAPS, config_map(namespace, "c")),
            lambda: client.patch(CONFIGMAPS, namespace, "a", {"data": {"value": "2"}}),
            lambda: client.delete(CONFIGMAPS, namespace, "a"),
        ]
        for write in writes:
            with pytest.raises(Halt):
                await write()
        assert (await client.get(CONFIGMAPS, namespace, "a"))["data"] == {"value": "1"}
        async with client.separate() as free:
            await free.create(CONFIGMAPS, config_map(namespace, "d"))

    use(kubeconfig, body)


def test_every_request_is_observed_and_no_faster_than_the_limit(kubeconfig: Path, namespace: str) -> None:
    seen: list[tuple[str, str, int]] = []

    async def main() -> float:
        observe = lambda verb, resource, code, seconds: seen.append((verb, resource, code))  # noqa: E731  # one line
        async with await Client.connect(str(kubeconfig), qps=20, burst=2, observe=observe) as client:
            started = time.monotonic()
            for name in "abcdef":
                with pytest.raises(NotFound):
                    await client.get(CONFIGMAPS, namespace, name)
            return time.monotonic() - started

    assert asyncio.run(main()) > 0.18  # four of six waited for a token of 1/20 s each
    assert seen == [("get", "configmaps", 404)] * 6


def test_the_versions_of_an_api_group_are_found_also_by_one_who_may_do_nothing(control_plane: ControlPlane) -> None:
    async def body(client: Client) -> None:
        assert "v1" in await client.versions("ray.io")
        assert await client.versions("kueue.example") == []

    use(control_plane.with_user("nobody", []), body)
