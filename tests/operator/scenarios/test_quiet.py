"""What does not matter to a job makes the operator write nothing."""

from __future__ import annotations

import asyncio

from control_plane import ControlPlane
from finetune_operator.kube import Object
from finetune_operator.kube.resources import PODS, RAYJOBS, RUNTIMES, Resource
from kube_proxy import KubeProxy
from player import waits
from stage import Stage, on_stage

EVENTS = 1000


def test_a_thousand_irrelevant_events_are_answered_by_no_write(
    control_plane: ControlPlane, namespace: str, proxy: KubeProxy
) -> None:
    async def script(stage: Stage) -> None:
        await stage.apply()
        await stage.player.until(lambda: converged(stage), "converged")
        await worker_is(stage, ready=False)
        await worker_is(stage, ready=True)
        before = proxy.asked
        for first in range(0, EVENTS, 50):
            await asyncio.gather(*(annotate(stage, number) for number in range(first, first + 50)))
        await worker_is(stage, ready=False)  # comes after all others, and is seen
        assert proxy.asked[len(before) :] == [("patch", "finetunejobs", "status")]

    on_stage(control_plane, namespace, script, waits, kubeconfig=proxy.kubeconfig())


def converged(stage: Stage) -> bool:
    """Whether all that the run and its pods have to say stands in the status."""
    status = (stage.player.job("bot") or {}).get("status") or {}
    step = (status.get("checkpoint") or {}).get("step")
    return status.get("phase") == "Training" and status["workers"]["ready"] == 1 and step == 5


async def annotate(stage: Stage, number: int) -> None:
    """Change something that nobody looks at: mostly of pods, and of the RayJob and the runtime."""
    note = {"metadata": {"annotations": {"note": str(number)}}}
    kind, name = target(stage, number)
    await stage.client.patch(kind, None if kind is RUNTIMES else stage.namespace, name, note)


def target(stage: Stage, number: int) -> tuple[Resource, str]:
    if number % 10 == 0:
        return RUNTIMES, "default"
    store, kind = (stage.player.ray_jobs, RAYJOBS) if number % 10 < 3 else (stage.player.pods, PODS)
    found = sorted(store.store.all(), key=lambda one: str(one["metadata"]["name"]))
    return kind, found[number % len(found)]["metadata"]["name"]


async def worker_is(stage: Stage, *, ready: bool) -> None:
    """Something that matters, and all that came before it, is seen and written down."""
    (worker,) = [one for one in stage.player.pods.store.all() if "worker" in one["metadata"]["name"]]
    status = {"conditions": [{"type": "Ready", "status": str(ready)}]}
    await stage.player.set_status(PODS, stage.namespace, worker["metadata"]["name"], status)

    def seen() -> bool:
        found: Object = stage.player.job("bot") or {}
        return bool(found["status"]["workers"]["ready"] == int(ready))

    await stage.player.until(seen, f"the worker is ready: {ready}")
