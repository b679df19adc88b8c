"""1,000 jobs at once: until each has what an operator makes of it.

PYTHONPATH=tools:tests:tests/operator:tests/trainer python -m bench.scale_burst [ours|trainer|...] [--jobs 1000]
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from bench.scale_contestants import LIFTED, Contestant, kubeflow_trainer, ours
from bench.scale_load import MIB, Load, cpu_seconds, loading, started, without_events
from child import Child
from control_plane import ControlPlane, serving

CONTESTANTS: dict[str, Callable[[], Contestant]] = {
    "ours": ours,
    "ours-lifted": lambda: ours("ours-lifted", LIFTED),
    "trainer": kubeflow_trainer,
    "trainer-lifted": lambda: kubeflow_trainer("trainer-lifted", LIFTED),
}


@dataclass(frozen=True)
class Burst:
    """What one operator did with `jobs` jobs: `seconds` from the first apply until the last child was there.

    `applied` of them until all were applied. Processor time in seconds and memory in MiB by process; writes are those
    of the operator until it had nothing more to say.
    """

    jobs: int
    seconds: float
    applied: float
    writes: dict[str, int]
    cpu: dict[str, float]
    memory: dict[str, float]

    @property
    def rate(self) -> float:
        """Jobs per second."""
        return self.jobs / self.seconds

    @property
    def writes_per_job(self) -> float:
        """Besides events."""
        return without_events(self.writes) / self.jobs


def burst(contestant: Contestant, jobs: int, folder: Path) -> Burst:
    """One turn of one contestant on a control plane of its own."""
    with serving(folder, contestant.crds(), controllers=False) as plane:
        return asyncio.run(_burst(plane, contestant, jobs))


async def _burst(plane: ControlPlane, contestant: Contestant, jobs: int) -> Burst:
    async with loading(plane, contestant) as load:
        operator = await started(load, contestant)
        try:
            return await _measure(load, contestant, operator, jobs)
        finally:
            operator.kill()


async def _measure(load: Load, contestant: Contestant, operator: Child, jobs: int) -> Burst:
    bodies = [contestant.job_body(f"job-{number}") for number in range(jobs)]
    before, there = await load.quiet(), await load.count(contestant.child)
    processes = _processes(load.plane, operator)
    cpu = {name: cpu_seconds(process) for name, process in processes.items()}

    async def done() -> bool:
        return await load.count(contestant.child) >= there + jobs

    began = time.monotonic()
    await load.for_each(bodies, partial(load.client.create, contestant.job))
    applied = time.monotonic() - began
    await load.until(done, operator)
    seconds = time.monotonic() - began
    cpu = {name: cpu_seconds(process) - cpu[name] for name, process in processes.items()}
    writes = await load.quiet() - before
    writes[f"POST {contestant.job.plural}"] -= jobs
    memory = {name: process.memory_info().rss / MIB for name, process in processes.items()}
    return Burst(jobs, seconds, applied, dict(+writes), cpu, memory)


def _processes(plane: ControlPlane, operator: Child) -> dict[str, psutil.Process]:
    pids = {"operator": operator.pid, "API server": plane.api_server.pid, "etcd": plane.etcd.pid}
    return {name: psutil.Process(pid) for name, pid in pids.items()} | {"load": psutil.Process()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["ours-lifted"], choices=CONTESTANTS)
    parser.add_argument("--jobs", type=int, default=1000)
    chosen = parser.parse_args()
    for name in chosen.names:
        with tempfile.TemporaryDirectory() as folder:
            found = burst(CONTESTANTS[name](), chosen.jobs, Path(folder))
        print(f"{name}: {found.rate:.1f} jobs/s ({found.seconds:.1f} s, applied in {found.applied:.1f} s)")
        print("  CPU s:", {one: round(value, 1) for one, value in found.cpu.items()})
        print("  MiB:", {one: round(value) for one, value in found.memory.items()})
        print(f"  writes per job {found.writes_per_job:.2f}:", found.writes)


if __name__ == "__main__":
    main()
