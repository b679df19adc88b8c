"""A limit of one running job, three tenants: turns by namespace, and a job that may not start keeps nobody waiting."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from control_plane import ControlPlane
from finetune_operator import application
from finetune_operator.api.job import JOB_NAME
from finetune_operator.core import metrics
from finetune_operator.kube import Object
from finetune_operator.kube.resources import LEASES, PODS, RAYJOBS, RUNTIMES
from player import Run, succeeds
from refusals import allow_ray_jobs, limit_ray_jobs
from stage import Stage, staged


class Clock:
    """The operator's clock, which a test sets forward so that what it does next is not in the same second."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC).replace(microsecond=0) + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(application, "now", clock)
    return clock


@pytest.fixture
def tenants(control_plane: ControlPlane, namespace: str) -> list[str]:
    """Three namespaces."""
    names = [namespace, f"{namespace}-b", f"{namespace}-c"]
    for name in names[1:]:
        control_plane.kubectl("create", "namespace", name)
        control_plane.wait_for_service_account(name)
    return names


class Turns:
    """Notes which jobs start, and lets each end when told to."""

    def __init__(self, tenants: list[str]) -> None:
        self.tenants = tenants
        self.started: list[str] = []
        self.too_many: list[str] = []
        self._may_end: dict[str, asyncio.Event] = {}

    async def plot(self, run: Run) -> None:
        """An attempt that trains until it may end; nothing of another one may be there."""
        job = run.ray_job["metadata"]["labels"][JOB_NAME]
        self.too_many += [name for name in await self._jobs_with_children(run) if name != job]
        self.started.append(job)
        run.player.look_again()
        await self._may_end.setdefault(job, asyncio.Event()).wait()
        await succeeds(run)

    async def end(self, job: str, stage: Stage) -> None:
        """Let a job end, and wait until its status says so."""
        self._may_end.setdefault(job, asyncio.Event()).set()
        await stage.player.phase_is(job, "Succeeded")

    async def _jobs_with_children(self, run: Run) -> list[str]:
        pages = [run.player.client.pages(kind, namespace=name) for kind in (RAYJOBS, PODS) for name in self.tenants]
        found = [item for one in pages async for page in one for item in page.items]
        return [item["metadata"]["labels"][JOB_NAME] for item in found]


def admitted(stage: Stage, job: str) -> Object:
    """The condition Admitted of a job."""
    status = (stage.player.job(job) or {}).get("status") or {}
    found: Object = {one["type"]: one for one in status.get("conditions") or ()}.get("Admitted", {})
    return found


def place_in_line(stage: Stage, job: str) -> int | None:
    """Jobs ahead of one that waits."""
    found: int | None = (((stage.player.job(job) or {}).get("status") or {}).get("queue") or {}).get("position")
    return found


def test_three_tenants_take_turns_and_a_refused_job_stands_aside(
    control_plane: ControlPlane, tenants: list[str], clock: Clock
) -> None:
    turns = Turns(tenants)
    asyncio.run(asyncio.wait_for(play(control_plane, tenants, clock, turns), 120))
    assert turns.started == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert turns.too_many == []


async def play(plane: ControlPlane, tenants: list[str], clock: Clock, turns: Turns) -> None:
    refused, first, second = tenants  # of jobs that are equally old, those of the first name in the alphabet go first
    name = f"rt-{refused}"
    runtime: Object = {"apiVersion": RUNTIMES.api_version, "kind": RUNTIMES.kind, "metadata": {"name": name}}
    runtime["spec"] = {"image": "registry/trainer:1", "limits": {"maxRunningJobs": 1}}
    async with (
        staged(plane, first, turns.plot) as a,
        staged(plane, second, turns.plot, replica=a.replica) as b,
        staged(plane, refused, turns.plot, replica=a.replica) as c,
    ):
        a.replica.start()
        await a.client.create(RUNTIMES, runtime)
        await limit_ray_jobs(c, refused)
        await a.apply("a1", runtimeRef={"name": name})
        await a.player.until(partial(turns.started.count, "a1"), "a1")
        for stage, job in ((a, "a2"), (a, "a3"), (c, "c1"), (b, "b1"), (b, "b2")):
            await stage.apply(job, runtimeRef={"name": name})
            await stage.player.phase_is(job, "Queued")
        clock.ahead += timedelta(seconds=2)
        await turns.end("a1", a)
        await b.player.until(partial(turns.started.count, "b1"), "b1 after c1 was refused")
        # Refused, then in the line again: at its old place, with the reason that it was refused for.
        await c.player.until(lambda: place_in_line(c, "c1") == 0, "c1 is next")
        assert admitted(c, "c1")["reason"] == "Forbidden" and "exceeded quota" in admitted(c, "c1")["message"]
        await allow_ray_jobs(c, refused)
        for ends, stage, follows, there in (
            ("b1", b, "c1", c),
            ("c1", c, "a2", a),
            ("a2", a, "b2", b),
            ("b2", b, "a3", a),
        ):
            clock.ahead += timedelta(seconds=2)
            await turns.end(ends, stage)
            await there.player.until(partial(turns.started.count, follows), follows)
        await turns.end("a3", a)
        await a.replica.stop()


def test_a_replica_that_stands_by_gathers_no_work(control_plane: ControlPlane, namespace: str) -> None:
    """What waits for the leader elsewhere does not wait for it here: after a takeover it would count as hours late."""

    def value(name: str, **labels: str) -> float:
        return metrics.REGISTRY.get_sample_value(name, labels) or 0.0

    async def script(stage: Stage) -> None:
        other = {"holderIdentity": "another", "leaseDurationSeconds": 3600, "acquireTime": None}
        lease = {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "spec": other}
        await stage.client.create(LEASES, lease | {"metadata": {"namespace": namespace, "name": application.LEASE}})
        stage.replica.start()
        before = value("finetune_cached_objects", resource="finetunejobs")
        await stage.apply()
        async with asyncio.timeout(20):
            while value("finetune_cached_objects", resource="finetunejobs") <= before:
                await asyncio.sleep(0.02)
        assert value("finetune_queue_depth") == 0
        await stage.client.delete(LEASES, namespace, application.LEASE)
        await stage.player.phase_is("bot", "Succeeded")

    async def main() -> None:
        async with staged(control_plane, namespace, succeeds) as stage:
            await script(stage)

    asyncio.run(asyncio.wait_for(main(), 120))
