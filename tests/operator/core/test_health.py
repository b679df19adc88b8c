"""The process says when it is unwell: a loop that is late, a silent API server, lists that are not through."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from finetune_operator.core.health import TICK_SECONDS, Check, LoopLag, fresh, health_app, synced
from finetune_operator.core.informer import Informer, Patience
from finetune_operator.kube import Client
from finetune_operator.kube.resources import PODS
from watched_maps import Changes, follow


def ask(app: web.Application, path: str) -> tuple[int, str]:
    async def main() -> tuple[int, str]:
        async with TestServer(app) as server, aiohttp.ClientSession() as session:
            found = await session.get(server.make_url(path))
            return found.status, await found.text()

    return asyncio.run(main())


def app(live: Check = lambda: None, ready: Check = lambda: None) -> web.Application:
    return health_app({"loop": live, "other": lambda: None}, {"pods": ready})


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_a_process_that_is_well_says_so(path: str) -> None:
    assert ask(app(), path) == (200, "ok")


def test_what_is_wrong_stands_in_the_answer_of_the_check_that_it_concerns() -> None:
    unwell = app(live=lambda: "the event loop is 7.0 s late")
    assert ask(unwell, "/healthz") == (503, "loop: the event loop is 7.0 s late")
    assert ask(app(ready=lambda: "not listed yet"), "/readyz") == (503, "pods: not listed yet")
    assert ask(app(ready=lambda: "not listed yet"), "/healthz") == (200, "ok")


def test_each_thing_that_is_wrong_has_a_line_of_its_own() -> None:
    checks: dict[str, Check] = {"loop": lambda: "late", "pods": lambda: "silent"}
    assert ask(health_app(checks, {}), "/healthz") == (503, "loop: late\npods: silent")


def test_metrics_are_in_the_form_that_prometheus_reads() -> None:
    status, text = ask(app(), "/metrics")
    assert status == 200
    assert "# TYPE finetune_reconcile_seconds histogram" in text
    assert "process_resident_memory_bytes" in text


def test_a_loop_is_late_while_nothing_runs() -> None:
    now = [10.0]
    lag = LoopLag(lambda: now[0])
    assert lag.check() is None
    now[0] += 6
    assert lag.check() == "the event loop is 6.0 s late"


def test_a_loop_that_was_late_is_well_once_it_runs_in_time_again() -> None:
    now = [10.0]
    lag = LoopLag(lambda: now[0])
    lag.plan()
    now[0] += 8
    lag.ran()
    lag.plan()
    assert lag.check() == "the event loop is 7.5 s late"
    now[0] += TICK_SECONDS
    lag.ran()
    assert lag.check() is None


def informer(clock: list[float]) -> Informer:
    client: Client = None  # type: ignore[assignment]  # never asked here
    return Informer(client, PODS, patience=Patience(clock=lambda: clock[0]))


def test_an_informer_is_stale_after_two_minutes_without_a_word(direct: Path, namespace: str) -> None:
    clock = [100.0]

    async def body(client: Client, informer: Informer, changes: Changes) -> None:
        check = fresh(informer)
        clock[0] += 120
        assert check() is None
        clock[0] += 1
        assert check() == "nothing was heard of configmaps for 121 s"

    follow(direct, namespace, body, Patience(clock=lambda: clock[0]))


def test_a_process_that_never_heard_a_word_would_hear_none_if_it_began_anew() -> None:
    clock = [100.0]
    check = fresh(informer(clock))
    clock[0] += 1000
    assert check() is None


def test_an_informer_is_ready_when_its_list_is_through() -> None:
    pods = informer([0.0])
    assert synced(pods)() == "pods are not listed yet"
    pods.synced.set()
    assert synced(pods)() is None
