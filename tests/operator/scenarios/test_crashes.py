"""The operator is killed after each of its writes and starts with empty memory: the job comes to the same end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from control_plane import ControlPlane
from finetune_operator.kube import Object
from kube_proxy import KubeProxy
from kube_request import KubeRequest
from lives import LIVES, Life
from running import expire_lease
from stage import Stage, staged

SETTLES = 10.0
EVERY = 0


async def crash(stage: Stage, proxy: KubeProxy, after: int) -> None:
    """Kill the operator as soon as it has written so often from now on, before it hears so; start it again."""
    loop, cut, base = asyncio.get_running_loop(), asyncio.Event(), len(proxy.steps)

    def hook(done: int, request: KubeRequest) -> None:
        if done == base + after:
            proxy.cut()
            loop.call_soon_threadsafe(cut.set)

    proxy.on_write = hook
    await cut.wait()
    await stage.replica.kill()
    proxy.on_write = None
    await expire_lease(stage.client, stage.namespace)
    proxy.mend()
    stage.replica.start()


async def crash_always(stage: Stage, proxy: KubeProxy) -> None:
    while True:
        await crash(stage, proxy, 1)


@asynccontextmanager
async def crashing(stage: Stage, proxy: KubeProxy, after: int) -> AsyncIterator[None]:
    """Crash in the background; `after` EVERY: after every write. A crash that has begun is over when this ends."""
    task = asyncio.create_task(crash_always(stage, proxy) if after == EVERY else crash(stage, proxy, after))
    yield
    if after != EVERY and proxy.is_cut:
        await task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    proxy.on_write = None


async def settled(stage: Stage, wanted: Object) -> Object:
    """What the job comes to, once that is what is wanted, or after a while."""
    with_time = asyncio.get_running_loop().time() + SETTLES
    while (found := await stage.outcome()) != wanted and asyncio.get_running_loop().time() < with_time:
        await asyncio.sleep(0.05)
    return found


def undisturbed(plane: ControlPlane, namespace: str, proxy: KubeProxy, life: Life) -> tuple[Object, int]:
    """What the job comes to when nothing breaks, and how many writes that takes."""

    async def main() -> tuple[Object, int]:
        async with staged(plane, namespace, *life.plots, kubeconfig=proxy.kubeconfig()) as stage:
            stage.replica.start()
            await life.play(stage)
            return await stage.outcome(), len(proxy.steps)

    return asyncio.run(main())


def crashed(plane: ControlPlane, namespace: str, proxy: KubeProxy, life: Life, after: int, wanted: Object) -> Object:
    """What the job comes to when the operator crashes after so many writes."""

    async def main() -> Object:
        async with staged(plane, namespace, *life.plots, kubeconfig=proxy.kubeconfig()) as stage:
            async with crashing(stage, proxy, after):
                stage.replica.start()
                await life.play(stage)
                found = await settled(stage, wanted)
            return found

    return asyncio.run(main())


@pytest.mark.parametrize("name", LIVES)
def test_a_crash_after_any_write_changes_nothing_in_the_end(
    control_plane: ControlPlane, namespace: str, proxy: KubeProxy, name: str
) -> None:
    wanted, writes = undisturbed(control_plane, namespace, proxy, LIVES[name])
    assert writes > 8
    for after in range(1, writes + 1):
        found = crashed(control_plane, namespace, proxy, LIVES[name], after, wanted)
        assert found == wanted, f"after write {after}: {proxy.steps[-1]}"


@pytest.mark.parametrize("name", LIVES)
def test_even_a_crash_after_every_single_write_changes_nothing_in_the_end(
    control_plane: ControlPlane, namespace: str, proxy: KubeProxy, name: str
) -> None:
    wanted, _ = undisturbed(control_plane, namespace, proxy, LIVES[name])
    assert crashed(control_plane, namespace, proxy, LIVES[name], EVERY, wanted) == wanted
