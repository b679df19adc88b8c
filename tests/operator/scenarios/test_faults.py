"""Every fault at every kind of request of the operator, and a second leader: the job comes to the same end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pytest

from control_plane import ControlPlane
from finetune_operator.application import SECRET
from finetune_operator.kube import NotFound, Object, retry
from finetune_operator.kube.resources import SECRETS
from kube_exchange import Action
from kube_faults import cut_short, delay, drop, expire, lose_answer, refuse
from kube_proxy import KubeProxy, kube_proxy
from kube_request import KubeRequest
from lives import LIVES, Life
from running import Replica
from stage import staged

FAULTS: dict[str, Callable[[], Action]] = {
    "409": lambda: refuse(409),
    "409-exists": lambda: refuse(409, "AlreadyExists"),
    "429": lambda: refuse(429),
    "500": lambda: refuse(500),
    "503": lambda: refuse(503),
    "drop": drop,
    "lose-answer": lose_answer,
    "lose-answer-500": lambda: lose_answer(500),
    "cut-short": lambda: cut_short(20),
    "delay": lambda: delay(0.3),
}
WHOLE = {"lose-answer", "lose-answer-500", "cut-short"}  # of one answer, so not of a watch

TURNS = {"retry": 1, "time-to-live": 2}
"""The lives that meet faults, and which request of each kind does: the first, and in the other life the second if there
is one, so that taking the finalizer off meets them as adding it does."""

WRITES = ("create", "patch", "delete")
Kind = tuple[str, str, str]
"""Verb, resource and subresource of a request."""

Used = Counter[Kind]


def end_of(plane: ControlPlane, namespace: str, proxy: KubeProxy, life: Life, second: Replica | None = None) -> Object:
    """Play a life, with an operator that is new to its namespace, and return what it came to."""

    async def main() -> Object:
        async with staged(plane, namespace, *life.plots, kubeconfig=proxy.kubeconfig()) as stage:
            with suppress(NotFound):
                await stage.client.delete(SECRETS, namespace, SECRET)
            stage.replica.start()
            if second is not None:
                second.start()
            try:
                await life.play(stage)
                return await stage.outcome()
            finally:
                if second is not None:
                    await second.stop()

    return asyncio.run(asyncio.wait_for(main(), 120))


def kind_of(request: KubeRequest) -> Kind:
    """What tells requests of the operator apart."""
    return request.verb, request.resource, request.subresource


Usual = Callable[[str], tuple[Object, Used]]


@pytest.fixture(scope="module")
def known() -> dict[str, tuple[Object, Used]]:
    """What lives came to undisturbed, with the requests that took."""
    return {}


@pytest.fixture
def usual(control_plane: ControlPlane, namespace: str, known: dict[str, tuple[Object, Used]]) -> Usual:
    """Tells what a life comes to undisturbed, with the requests that takes."""

    def tell(name: str) -> tuple[Object, Used]:
        if name not in known:
            with kube_proxy(control_plane) as proxy:
                found = end_of(control_plane, namespace, proxy, LIVES[name])
                known[name] = found, Counter(kind_of(one) for one in proxy.seen if one.resource)
        return known[name]

    return tell


def break_each(proxy: KubeProxy, used: Used, turn: int, fault: str) -> set[Kind]:
    """Let one request of each kind meet the fault; returns the kinds that have met it so far."""
    met, seen = set[Kind](), Used()

    def meets(request: KubeRequest, kind: Kind) -> bool:
        if kind_of(request) != kind:
            return False
        seen[kind] += 1
        if seen[kind] == min(turn, used[kind]):
            met.add(kind)
        return kind in met

    for kind in used:
        action = expire() if kind[0] == "watch" and fault in WHOLE else FAULTS[fault]()
        proxy.faults.add(partial(meets, kind=kind), action, 1)
    return met


def test_the_lives_that_meet_faults_make_requests_of_every_kind(usual: Usual) -> None:
    kinds = {name: set(usual(name)[1]) for name in LIVES}
    met = set[Kind]().union(*(kinds[name] for name in TURNS))
    assert met == set[Kind]().union(*kinds.values())
    assert {"list", "watch", "get", "create", "patch", "delete"} <= {verb for verb, _, _ in met}


@pytest.mark.parametrize("name", TURNS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_every_kind_of_request_changes_nothing_in_the_end(
    control_plane: ControlPlane,
    namespace: str,
    proxy: KubeProxy,
    usual: Usual,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    name: str,
) -> None:
    monkeypatch.setattr(retry, "LONGEST_WAIT", 0.05)
    wanted, used = usual(name)
    met = break_each(proxy, used, TURNS[name], fault)
    assert end_of(control_plane, namespace, proxy, LIVES[name]) == wanted
    assert {kind for kind in used if kind[0] in WRITES and kind[1] in ("finetunejobs", "rayjobs")} <= met


def test_a_status_for_which_the_server_finds_no_job_is_written_later(
    control_plane: ControlPlane, namespace: str, proxy: KubeProxy
) -> None:
    async def main() -> None:
        async with staged(control_plane, namespace, kubeconfig=proxy.kubeconfig()) as stage:
            status: Kind = ("patch", "finetunejobs", "status")
            proxy.faults.add(lambda one: kind_of(one) == status, refuse(404, "NotFound"), 2)
            stage.replica.start()
            await stage.apply(runtimeRef={"name": "none-of-this-name"})
            await stage.player.phase_is("bot", "Pending")

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.alone
@pytest.mark.parametrize("name", LIVES)
def test_a_second_leader_makes_no_second_attempt(
    control_plane: ControlPlane, namespace: str, proxy: KubeProxy, name: str
) -> None:
    """Two instances hold leases of their own, so both lead all the time; only one hears the reports."""
    wanted = end_of(control_plane, namespace, proxy, LIVES[name])
    home = f"{namespace}-second"
    control_plane.kubectl("create", "namespace", home)
    second = Replica(control_plane.kubeconfig(), home, "two")
    assert end_of(control_plane, namespace, proxy, LIVES[name], second) == wanted
