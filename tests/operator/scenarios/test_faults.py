"""Every fault on every verb that the operator uses, and a second leader: the job comes to the same end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from control_plane import ControlPlane
from finetune_operator.kube import Object, retry
from kube_exchange import Action
from kube_faults import cut_short, delay, drop, expire, lose_answer, refuse
from kube_proxy import KubeProxy
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

Used = set[tuple[str, str]]


def end_of(plane: ControlPlane, namespace: str, proxy: KubeProxy, life: Life, second: Replica | None = None) -> Object:
    """Play a life and return what it came to."""

    async def main() -> Object:
        async with staged(plane, namespace, *life.plots, kubeconfig=proxy.kubeconfig()) as stage:
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


def requests_of(proxy: KubeProxy, namespace: str) -> Used:
    """Verbs and resources of what the operator asked for."""
    return {(one.verb, one.resource) for one in proxy.seen if one.resource}


@pytest.fixture(scope="module")
def usual() -> dict[str, tuple[Object, Used]]:
    """What lives come to undisturbed, with the requests that took."""
    return {}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_every_kind_of_request_changes_nothing_in_the_end(
    control_plane: ControlPlane,
    namespace: str,
    proxy: KubeProxy,
    usual: dict[str, tuple[Object, Used]],
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    monkeypatch.setattr(retry, "LONGEST_WAIT", 0.05)
    life = LIVES["retry"]
    if not usual:
        found = end_of(control_plane, namespace, proxy, life)
        usual["retry"] = found, requests_of(proxy, namespace)
    wanted, used = usual["retry"]
    assert {"list", "watch", "get", "create", "patch", "delete"} <= {verb for verb, _ in used}
    for verb, resource in used:
        if verb != "watch":
            proxy.inject(verb, FAULTS[fault](), resource=resource)
        else:
            proxy.inject(verb, expire() if fault in WHOLE else FAULTS[fault](), resource=resource)
    assert end_of(control_plane, namespace, proxy, life) == wanted


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
