"""An informer's store equals what the API server has, whatever happens to lists, watches and connections."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from control_plane import ControlPlane
from finetune_operator.core.backoff import Backoff
from finetune_operator.core.health import synced
from finetune_operator.core.informer import Informer, Patience
from finetune_operator.kube import Client, Object
from finetune_operator.kube.resources import CONFIGMAPS, Resource
from kube_faults import cut_short, drop, expire, refuse
from kube_proxy import KubeProxy
from watched_maps import QUICK, Changes, by_others, change, config_map, delete, follow, make, opened, restarts


def test_it_reports_what_is_there_and_then_what_happens(direct: Path, namespace: str) -> None:
    async def body(client: Client, informer: Informer, changes: Changes) -> None:
        assert changes.seen == ["+a=1", "+b=1"]
        await change(namespace, "a", "2")(client)
        await delete(namespace, "b")(client)
        await make(namespace, "c")(client)
        assert await changes.until(lambda seen: len(seen) == 5) == ["+a=1", "+b=1", "a=2", "-b", "+c=1"]
        assert sorted(obj["metadata"]["name"] for obj in informer.store.all()) == ["a", "c"]
        found = informer.store.get(namespace, "a")
        assert found is not None
        assert "managedFields" not in found["metadata"]

    asyncio.run(by_others(direct, make(namespace, "a"), make(namespace, "b")))
    follow(direct, namespace, body)


def test_what_the_selector_does_not_choose_is_not_there(direct: Path, namespace: str) -> None:
    async def body(client: Client, informer: Informer, changes: Changes) -> None:
        unlabelled = config_map(namespace, "unlabelled")
        del unlabelled["metadata"]["labels"]
        await client.create(CONFIGMAPS, unlabelled)
        await make(namespace, "a")(client)
        await client.patch(CONFIGMAPS, namespace, "a", {"metadata": {"labels": None}})
        assert await changes.until(lambda seen: len(seen) == 2) == ["+a=1", "-a"]

    follow(direct, namespace, body)


def test_a_write_is_seen_at_once_and_its_event_is_no_news(direct: Path, namespace: str) -> None:
    async def body(client: Client, informer: Informer, changes: Changes) -> None:
        informer.store.put(await client.create(CONFIGMAPS, config_map(namespace, "a")))
        assert changes.seen == ["+a=1"]
        for value in ("2", "3"):
            patch = {"data": {"value": value}}
            informer.store.put(await client.patch(CONFIGMAPS, namespace, "a", patch))
        assert changes.seen[-1] == "a=3"
        await make(namespace, "last")(client)
        assert await changes.until(lambda seen: seen[-1] == "+last=1") == ["+a=1", "a=2", "a=3", "+last=1"]

    follow(direct, namespace, body)


def test_a_stale_watch_does_not_undo_a_write(proxy: KubeProxy, direct: Path, namespace: str) -> None:
    """Writes go to an API server that is ahead of the one that is watched."""

    async def body(client: Client, informer: Informer, changes: Changes) -> None:
        made = await client.create(CONFIGMAPS, config_map(namespace, "a"))
        await changes.until(lambda seen: seen == ["+a=1"])
        proxy.freeze("configmaps")
        await client.patch(CONFIGMAPS, namespace, "a", {"data": {"value": "2"}})
        informer.store.put(await client.patch(CONFIGMAPS, namespace, "a", {"data": {"value": "3"}}))
        await client.delete(CONFIGMAPS, namespace, "a", uid=made["metadata"]["uid"])
        informer.store.remove(namespace, "a", made["metadata"]["uid"])
        informer.store.put(await client.create(CONFIGMAPS, config_map(namespace, "a", "new")))
        proxy.thaw()  # now come the events of 2, 3, the delete and the new one
        await make(namespace, "last")(client)
        assert await changes.until(lambda seen: seen[-1] == "+last=1") == ["+a=1", "a=3", "-a", "+a=new", "+last=1"]

    follow(proxy.kubeconfig(), namespace, body)


def broken_watch(proxy: KubeProxy) -> None:
    proxy.end_watches("configmaps", reset=True)


def ended_watch(proxy: KubeProxy) -> None:
    proxy.end_watches("configmaps")


def expired_watch(proxy: KubeProxy) -> None:
    proxy.inject("watch", expire(), resource="configmaps")
    proxy.end_watches("configmaps")


def gone_watch(proxy: KubeProxy) -> None:
    proxy.inject("watch", refuse(410), resource="configmaps")
    proxy.end_watches("configmaps", reset=True)


def failing_watch(proxy: KubeProxy) -> None:
    for code in (500, 503, 429, 403):
        proxy.inject("watch", refuse(code), resource="configmaps")
    proxy.end_watches("configmaps", reset=True)


def failing_relist(proxy: KubeProxy) -> None:
    proxy.inject("watch", expire(), resource="configmaps")
    for fault in (refuse(500), drop(), cut_short(50), refuse(410)):
        proxy.inject("list", fault, resource="configmaps")
    proxy.end_watches("configmaps", reset=True)


FAULTS = [broken_watch, ended_watch, expired_watch, gone_watch, failing_watch, failing_relist]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_nothing_is_lost_however_a_watch_ends(
    proxy: KubeProxy, direct: Path, namespace: str, fault: Callable[[KubeProxy], None]
) -> None:
    """While it is away one object is changed, one deleted, one made, and one deleted and made again."""

    async def body(client: Client, informer: Informer, changes: Changes) -> None:
        assert changes.seen == ["+changed=1", "+deleted=1", "+renewed=1"]
        await opened(proxy)
        proxy.freeze("configmaps")  # holds the events back, so that they fall into the gap
        await by_others(
            direct,
            change(namespace, "changed", "2"),
            delete(namespace, "deleted"),
            delete(namespace, "renewed"),
            make(namespace, "renewed", "again"),
            make(namespace, "made"),
        )
        fault(proxy)
        proxy.thaw()
        seen = await changes.until(lambda seen: len(seen) == 8)
        assert sorted(seen[3:]) == ["+made=1", "+renewed=again", "-deleted", "-renewed", "changed=2"]
        assert seen.index("-renewed") < seen.index("+renewed=again")
        await make(namespace, "last")(client)
        await changes.until(lambda seen: seen[-1] == "+last=1")
        names = ["changed", "last", "made", "renewed"]
        assert sorted(obj["metadata"]["name"] for obj in informer.store.all()) == names

    asyncio.run(by_others(direct, *(make(namespace, name) for name in ("changed", "deleted", "renewed"))))
    follow(proxy.kubeconfig(), namespace, body)


def test_a_missed_event_is_made_up_for_by_the_next_list(proxy: KubeProxy, direct: Path, namespace: str) -> None:
    async def body(client: Client, informer: Informer, changes: Changes) -> None:
        await opened(proxy)
        proxy.hide(lambda event: event["type"] == "DELETED")
        await delete(namespace, "a")(client)
        await make(namespace, "b")(client)
        await changes.until(lambda seen: seen == ["+a=1", "+b=1"])
        proxy.show()
        expired_watch(proxy)
        assert await changes.until(lambda seen: len(seen) == 3) == ["+a=1", "+b=1", "-a"]

    asyncio.run(by_others(direct, make(namespace, "a")))
    follow(proxy.kubeconfig(), namespace, body)


def test_a_watch_that_falls_silent_is_opened_anew(proxy: KubeProxy, namespace: str) -> None:
    async def body(client: Client, informer: Informer, changes: Changes) -> None:
        await opened(proxy)
        assert proxy.stall_watches("configmaps") == 1
        await make(namespace, "a")(client)
        assert await changes.until(bool) == ["+a=1"]

    before = restarts("Unreachable")
    follow(proxy.kubeconfig(), namespace, body, Patience(Backoff(0.02, 0.1), stall=0.5))
    assert restarts("Unreachable") > before


def test_a_server_that_is_away_for_long_is_not_asked_without_pause(proxy: KubeProxy, namespace: str) -> None:
    """With the first pause of 0.02 s doubling up to 0.1 s, half a second holds about ten requests, not hundreds."""

    async def body(client: Client, informer: Informer, changes: Changes) -> None:
        await opened(proxy)
        asked = proxy.count("watch", "configmaps")
        proxy.inject("watch", refuse(500), resource="configmaps", times=10**6)
        proxy.end_watches("configmaps", reset=True)
        await asyncio.sleep(0.5)
        assert 4 <= proxy.count("watch", "configmaps") - asked <= 20

    follow(proxy.kubeconfig(), namespace, body)


def test_a_watch_that_ends_without_a_word_is_not_opened_without_pause(proxy: KubeProxy, namespace: str) -> None:
    async def body(client: Client, informer: Informer, changes: Changes) -> None:
        await opened(proxy)
        asked = proxy.count("watch", "configmaps")
        ended = time.monotonic()
        proxy.end_watches("configmaps")
        while proxy.count("watch", "configmaps") == asked:
            await asyncio.sleep(0.01)
        assert time.monotonic() - ended >= 0.2

    follow(proxy.kubeconfig(), namespace, body, Patience(Backoff(0.4, 0.4)))


def test_a_quiet_watch_that_ends_in_its_time_goes_on_from_its_last_bookmark(proxy: KubeProxy, namespace: str) -> None:
    async def body(client: Client, informer: Informer, changes: Changes) -> None:
        made = await client.create(CONFIGMAPS, config_map(namespace, "a"))
        await changes.until(bool)
        version = str(int(made["metadata"]["resourceVersion"]))
        bookmark = {"type": "BOOKMARK", "object": {"kind": "ConfigMap", "metadata": {"resourceVersion": version}}}
        proxy.end_watches("configmaps", last=bookmark)
        await make(namespace, "b")(client)
        assert await changes.until(lambda seen: len(seen) == 2) == ["+a=1", "+b=1"]
        assert [one.query["resourceVersion"] for one in proxy.seen if one.verb == "watch"][-1] == version

    before = restarts("Unreachable")
    follow(proxy.kubeconfig(), namespace, body)
    assert proxy.count("list", "configmaps") == 1
    assert restarts("Unreachable") == before


def test_a_long_list_comes_in_pages_and_one_that_expires_starts_again(
    proxy: KubeProxy, direct: Path, namespace: str
) -> None:
    names = [f"m{number:03}" for number in range(210)]

    async def fill(client: Client) -> None:
        await asyncio.gather(*(client.create(CONFIGMAPS, config_map(namespace, name)) for name in names))

    async def body(client: Client, informer: Informer, changes: Changes) -> None:
        assert sorted(obj["metadata"]["name"] for obj in informer.store.all()) == names
        assert len(changes.seen) == 210

    asyncio.run(by_others(direct, fill))
    proxy.inject("list", refuse(410), resource="configmaps")
    follow(proxy.kubeconfig(), namespace, body)
    assert [one.query["limit"] for one in proxy.seen if one.verb == "list"] == ["200"] * 3


def test_a_kind_that_is_not_installed_yet_is_followed_once_it_is(control_plane: ControlPlane) -> None:
    kind = Resource("late.example", "v1", "things", "Thing", provider="the example 1.0 or newer")
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "things", "singular": "thing", "kind": "Thing"}
    definitions = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", False)
    definition: Object = {
        "apiVersion": definitions.api_version,
        "kind": definitions.kind,
        "metadata": {"name": "things.late.example"},
        "spec": {"group": kind.group, "scope": "Namespaced", "names": names, "versions": [version]},
    }

    async def main() -> None:
        async with await Client.connect(str(control_plane.kubeconfig())) as client:
            informer = Informer(client, kind, patience=QUICK)
            running = asyncio.create_task(informer.run())
            await asyncio.sleep(0.2)
            wanted = "the cluster has no kind Thing (late.example/v1): install the example 1.0 or newer"
            assert synced(informer)() == f"things are not listed yet: {wanted}"
            assert informer.silence() < 0.2  # the server said so: no reason to start this process anew
            await client.create(definitions, definition)
            await informer.synced.wait()
            assert informer.trouble == ""
            running.cancel()
            await client.delete(definitions, None, "things.late.example")

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_server_that_cannot_be_reached_is_silence(proxy: KubeProxy, namespace: str) -> None:
    async def body(client: Client, informer: Informer, changes: Changes) -> None:
        proxy.cut()
        await asyncio.sleep(0.3)
        silent = informer.silence()
        assert silent > 0.25
        proxy.mend()
        await make(namespace, "a")(client)
        await changes.until(bool)
        assert informer.silence() < silent

    follow(proxy.kubeconfig(), namespace, body)


def test_what_ends_a_watch_is_logged_in_a_line(
    proxy: KubeProxy, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(client: Client, informer: Informer, changes: Changes) -> None:
        await opened(proxy)
        proxy.inject("watch", refuse(500), resource="configmaps", times=2)
        proxy.end_watches("configmaps", reset=True)
        await make(namespace, "a")(client)
        await changes.until(bool)

    with caplog.at_level(logging.INFO):
        follow(proxy.kubeconfig(), namespace, body)
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("informer")]
    assert len(lines) == 3
    assert "following configmaps again in" in lines[1]
    assert "500 InternalError: injected" in lines[1]
