"""Jobs applied at a steady rate: how long each waits for the first status that the operator writes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.scale_contestants import NAMESPACE, Contestant
from bench.scale_load import Load, loading, started
from child import Child
from control_plane import ControlPlane, serving
from finetune_operator.kube.resources import JOBS

PATIENCE = 300.0


@dataclass(frozen=True)
class Steady:
    """`delays` are the seconds from apply to status, as a watch saw it, shortest first; `rate` was applied a second.

    `settled` is after how many seconds of the first apply the last job had its status.
    """

    rate: float
    delays: Sequence[float]
    settled: float

    def percentile(self, share: float) -> float:
        """The delay that this share (0 to 1) of the jobs stayed below."""
        return self.delays[min(len(self.delays) - 1, int(share * len(self.delays)))]


def steady(contestant: Contestant, rate: float, seconds: float, folder: Path) -> Steady:
    """Apply `rate` jobs a second for so long, on a control plane of its own."""
    with serving(folder, contestant.crds(), controllers=False) as plane:
        return asyncio.run(_steady(plane, contestant, rate, seconds))


async def _steady(plane: ControlPlane, contestant: Contestant, rate: float, seconds: float) -> Steady:
    async with loading(plane, contestant) as load:
        operator = await started(load, contestant)
        try:
            await load.quiet()
            return await _measure(load, contestant, operator, rate, int(rate * seconds))
        finally:
            operator.kill()


async def _measure(load: Load, contestant: Contestant, operator: Child, rate: float, jobs: int) -> Steady:
    bodies = [contestant.job_body(f"job-{number}") for number in range(jobs)]
    told: dict[str, float] = {}
    waiting = {body["metadata"]["name"] for body in bodies}
    following = asyncio.create_task(_follow(load, waiting, told, await _version(load)))
    due: dict[str, float] = {}
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number, body in enumerate(bodies):
            # Each has its time, however long those before it take: a slow server does not lower the rate.
            due[body["metadata"]["name"]] = begin = began + number / rate
            await asyncio.sleep(max(0.0, begin - time.monotonic()))
            group.create_task(load.client.create(JOBS, body))
    async with asyncio.timeout(PATIENCE):
        await following
    operator.check()
    delays = sorted(told[name] - begin for name, begin in due.items())
    return Steady(rate, delays, max(told.values()) - began)


async def _version(load: Load) -> str:
    """Up to where the API server's changes are known."""
    async for page in load.client.pages(JOBS, namespace=NAMESPACE):
        version = page.resource_version
    return version


async def _follow(load: Load, waiting: set[str], told: dict[str, float], version: str) -> None:
    """Note when each job that waits for its first status has it, until all have.

    The API server ends a watch that does not keep up; the next one goes on from where it was.
    """
    while waiting:
        async with load.client.watch(JOBS, version, namespace=NAMESPACE) as events:
            async for event in events:
                version = event.object["metadata"]["resourceVersion"]
                name = event.object["metadata"].get("name")
                if name in waiting and event.object.get("status"):
                    told[name] = time.monotonic()
                    waiting.remove(name)
                if not waiting:
                    break
