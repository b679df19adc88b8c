"""What the client does when the API server refuses, fails, is cut off or falls silent: never a write twice."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import pytest
from aiohttp import web

from finetune_operator.kube import (
    Client,
    Conflict,
    Gone,
    NotFound,
    ServerError,
    TooManyRequests,
    Unreachable,
    transport,
)
from finetune_operator.kube.resources import CONFIGMAPS
from kube_exchange import Exchange
from kube_faults import cut_short, drop, expire, hold, lose_answer, refuse, stall
from kube_proxy import KubeProxy
from watched_maps import config_map

T = TypeVar("T")
Write = Callable[[Client, str], Awaitable[object]]

WRITES: dict[str, Write] = {
    "create": lambda client, namespace: client.create(CONFIGMAPS, config_map(namespace, "new")),
    "apply": lambda client, namespace: client.apply(CONFIGMAPS, config_map(namespace, "new")),
    "patch": lambda client, namespace: client.patch(CONFIGMAPS, namespace, "old", {"data": {"value": "2"}}),
    "delete": lambda client, namespace: client.delete(CONFIGMAPS, namespace, "old"),
}


def use(proxy: KubeProxy, body: Callable[[Client], Awaitable[T]]) -> T:
    async def main() -> T:
        async with await Client.connect(str(proxy.kubeconfig())) as client:
            return await body(client)

    return asyncio.run(asyncio.wait_for(main(), 60))


async def values(client: Client, namespace: str) -> dict[str, str]:
    """What is there now."""
    found: dict[str, str] = {}
    async for page in client.pages(CONFIGMAPS, namespace=namespace):
        found |= {item["metadata"]["name"]: item["data"].get("value", "") for item in page.items}
    found.pop("kube-root-ca.crt", None)
    return found


DONE = {"create": {"old": "1", "new": "1"}, "apply": {"old": "1", "new": "1"}, "patch": {"old": "2"}, "delete": {}}


@pytest.mark.parametrize("verb", WRITES)
def test_too_many_requests_are_sent_again_until_one_is_taken(proxy: KubeProxy, namespace: str, verb: str) -> None:
    async def body(client: Client) -> dict[str, str]:
        await client.create(CONFIGMAPS, config_map(namespace, "old"))
        proxy.inject(verb, refuse(429, retry_after=1), resource="configmaps")
        proxy.inject(verb, refuse(429), resource="configmaps")
        await WRITES[verb](client, namespace)
        return await values(client, namespace)

    assert use(proxy, body) == DONE[verb]


@pytest.mark.parametrize("verb", WRITES)
def test_a_write_with_a_lost_answer_is_not_sent_again(proxy: KubeProxy, namespace: str, verb: str) -> None:
    async def body(client: Client) -> dict[str, str]:
        await client.create(CONFIGMAPS, config_map(namespace, "old"))
        sent = proxy.count(verb, "configmaps")
        proxy.inject(verb, lose_answer(), resource="configmaps")
        with pytest.raises((Unreachable, NotFound)):
            await WRITES[verb](client, namespace)
        if verb != "delete":  # aiohttp asks twice over a kept connection where HTTP says that is harmless
            assert proxy.count(verb, "configmaps") == sent + 1
        return await values(client, namespace)

    assert use(proxy, body) == DONE[verb]


@pytest.mark.parametrize("verb", WRITES)
def test_a_write_behind_an_error_of_the_server_is_not_sent_again(proxy: KubeProxy, namespace: str, verb: str) -> None:
    async def body(client: Client) -> dict[str, str]:
        await client.create(CONFIGMAPS, config_map(namespace, "old"))
        sent = proxy.count(verb, "configmaps")
        proxy.inject(verb, lose_answer(500), resource="configmaps")
        with pytest.raises(ServerError):
            await WRITES[verb](client, namespace)
        assert proxy.count(verb, "configmaps") == sent + 1
        return await values(client, namespace)

    assert use(proxy, body) == DONE[verb]


@pytest.mark.parametrize("verb", ["create", "apply", "patch"])
def test_a_write_that_was_dropped_is_left_to_its_caller(proxy: KubeProxy, namespace: str, verb: str) -> None:
    async def body(client: Client) -> dict[str, str]:
        await client.create(CONFIGMAPS, config_map(namespace, "old"))
        proxy.inject(verb, drop(), resource="configmaps")
        with pytest.raises(Unreachable):
            await WRITES[verb](client, namespace)
        return await values(client, namespace)

    assert use(proxy, body) == {"old": "1"}


def test_a_busy_server_is_given_up_after_some_tries(
    proxy: KubeProxy, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "wait_before_retry", lambda error, *, creates, tries: 0.0 if tries < 5 else None)
    proxy.inject("get", refuse(429), resource="configmaps", times=100)
    with pytest.raises(TooManyRequests):
        use(proxy, lambda client: client.get(CONFIGMAPS, namespace, "a"))
    assert proxy.count("get", "configmaps") == 5


def test_a_create_is_not_sent_again_to_an_unavailable_server_but_a_patch_is(proxy: KubeProxy, namespace: str) -> None:
    async def body(client: Client) -> None:
        proxy.inject("create", refuse(503, retry_after=1), resource="configmaps")
        with pytest.raises(ServerError):
            await client.create(CONFIGMAPS, config_map(namespace, "old"))
        await client.create(CONFIGMAPS, config_map(namespace, "old"))
        proxy.inject("patch", refuse(503, retry_after=1), resource="configmaps")
        await WRITES["patch"](client, namespace)

    use(proxy, body)
    assert proxy.count("create", "configmaps") == 2
    assert proxy.count("patch", "configmaps") == 2


def test_a_conflict_is_the_callers(proxy: KubeProxy, namespace: str) -> None:
    proxy.inject("apply", refuse(409), resource="configmaps")
    with pytest.raises(Conflict):
        use(proxy, lambda client: WRITES["apply"](client, namespace))


def test_half_an_answer_is_none(proxy: KubeProxy, namespace: str) -> None:
    proxy.inject("list", cut_short(after=20), resource="configmaps")
    with pytest.raises(Unreachable):
        use(proxy, lambda client: values(client, namespace))


def test_an_answer_that_is_no_json_is_none(proxy: KubeProxy, namespace: str) -> None:
    async def portal(exchange: Exchange) -> web.StreamResponse:
        return web.Response(text="<html>Please log in</html>", content_type="text/html")

    proxy.inject("get", portal, resource="configmaps")
    with pytest.raises(Unreachable, match="the answer is no JSON"):
        use(proxy, lambda client: client.get(CONFIGMAPS, namespace, "a"))


@pytest.fixture
def held() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_a_server_that_never_answers_is_given_up(
    proxy: KubeProxy, namespace: str, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "REQUEST_SECONDS", 0.3)
    proxy.inject("get", hold(held), resource="configmaps", times=2)
    with pytest.raises(Unreachable):
        use(proxy, lambda client: client.get(CONFIGMAPS, namespace, "a"))


async def watch(client: Client, namespace: str, stall: float = 30.0) -> list[str]:
    async with client.watch(CONFIGMAPS, "1", namespace=namespace, timeout=20, stall=stall) as events:
        return [event.type async for event in events]


def test_a_watch_that_says_nothing_for_too_long_is_dead(proxy: KubeProxy, namespace: str) -> None:
    proxy.inject("watch", stall(), resource="configmaps")
    with pytest.raises(Unreachable):
        use(proxy, lambda client: watch(client, namespace, stall=0.3))


@pytest.mark.parametrize("form", ["event", "answer"])
def test_a_watch_of_what_is_compacted_away_is_gone(proxy: KubeProxy, namespace: str, form: str) -> None:
    proxy.inject("watch", expire() if form == "event" else refuse(410), resource="configmaps")
    with pytest.raises(Gone):
        use(proxy, lambda client: watch(client, namespace))


def test_a_watch_asks_for_bookmarks_and_for_an_end(proxy: KubeProxy, namespace: str) -> None:
    async def body(client: Client) -> None:
        async with client.watch(CONFIGMAPS, "1", namespace=namespace):
            pass

    use(proxy, body)
    (seen,) = [request for request in proxy.seen if request.verb == "watch"]
    assert seen.query["allowWatchBookmarks"] == "true"
    assert 300 <= int(seen.query["timeoutSeconds"]) <= 600
