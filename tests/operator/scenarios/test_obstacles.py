"""What keeps a job from starting is a condition at once, and goes away by itself when it is put right."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import pytest

from control_plane import ControlPlane
from faults import FOREVER
from finetune_operator.api.job import JOB_NAME
from finetune_operator.kube import Object
from finetune_operator.kube.resources import RAYJOBS, RUNTIMES
from kube_faults import refuse
from kube_proxy import KubeProxy
from player import Plot, Run, succeeds
from refusals import allow_ray_jobs, limit_ray_jobs
from stage import Stage, on_stage, staged

pytestmark = pytest.mark.alone

AT_ONCE = 2.0


def runtime(name: str, **spec: Object) -> Object:
    body = {"apiVersion": RUNTIMES.api_version, "kind": RUNTIMES.kind, "metadata": {"name": name}}
    return body | {"spec": {"image": "registry/trainer:1", **spec}}


async def refused(stage: Stage, reason: str) -> Object:
    """Wait until the job says why it does not start; seconds since its creation are those of this call."""
    started = time.monotonic()

    def admitted() -> Object | None:
        status = (stage.player.job("bot") or {}).get("status") or {}
        found = {one["type"]: one for one in status.get("conditions") or ()}.get("Admitted", {})
        return found if (found.get("status"), found.get("reason")) == ("False", reason) else None

    found = await stage.player.until(admitted, reason)
    assert time.monotonic() - started < AT_ONCE
    return found


def test_a_missing_runtime_is_named_and_the_job_starts_when_it_is_there(
    control_plane: ControlPlane, namespace: str
) -> None:
    name = f"rt-{namespace}"

    async def script(stage: Stage) -> None:
        await stage.replica.leads()
        await stage.apply(runtimeRef={"name": name})
        found = await refused(stage, "RuntimeMissing")
        assert name in found["message"] and "default" in found["message"]
        await stage.client.create(RUNTIMES, runtime(name))
        await stage.player.phase_is("bot", "Succeeded")

    on_stage(control_plane, namespace, script, succeeds)


def test_a_quota_that_forbids_is_told_and_the_job_starts_when_there_is_room(
    control_plane: ControlPlane, namespace: str
) -> None:
    async def script(stage: Stage) -> None:
        await limit_ray_jobs(stage, namespace)
        await stage.replica.leads()
        await stage.apply()
        found = await refused(stage, "Forbidden")
        assert "exceeded quota: none" in found["message"]
        await allow_ray_jobs(stage, namespace)
        await stage.player.phase_is("bot", "Succeeded")

    on_stage(control_plane, namespace, script, succeeds)


@pytest.mark.parametrize(("code", "reason"), [(400, "BadRequest"), (413, "RequestEntityTooLarge")])
def test_what_a_webhook_denies_is_told_whatever_its_code_is(
    control_plane: ControlPlane, namespace: str, proxy: KubeProxy, code: int, reason: str
) -> None:
    async def script(stage: Stage) -> None:
        await stage.replica.leads()
        proxy.inject("create", refuse(code, reason), resource=RAYJOBS.plural, times=2)
        await stage.apply()
        await refused(stage, "Forbidden")
        await stage.player.phase_is("bot", "Succeeded")

    on_stage(control_plane, namespace, script, succeeds, kubeconfig=proxy.kubeconfig())


def test_a_cluster_without_kuberay_is_told_and_the_job_starts_when_it_is_there(
    control_plane: ControlPlane, namespace: str, proxy: KubeProxy
) -> None:
    async def script(stage: Stage) -> None:
        await stage.replica.leads()
        await stage.apply()
        found = await refused(stage, "KubeRayMissing")
        assert found["message"] == "the cluster has no kind RayJob (ray.io/v1): install KubeRay 1.6 or newer"
        proxy.faults.clear()
        await stage.player.phase_is("bot", "Succeeded")

    proxy.inject("list", refuse(404, "NotFound"), resource=RAYJOBS.plural, times=FOREVER)
    on_stage(control_plane, namespace, script, succeeds, kubeconfig=proxy.kubeconfig())


@pytest.fixture
def other_namespace(control_plane: ControlPlane, namespace: str) -> str:
    """A second tenant's."""
    name = f"{namespace}-b"
    control_plane.kubectl("create", "namespace", name)
    control_plane.wait_for_service_account(name)
    return name


def test_jobs_over_the_limit_wait_for_their_turn_by_namespace(
    control_plane: ControlPlane, namespace: str, other_namespace: str
) -> None:
    """Two may run. The first tenant has four jobs; the second tenant's, which came last, goes before its third."""
    name, started, may_end = f"rt-{namespace}", list[str](), dict[str, asyncio.Event]()

    async def plot(run: Run) -> None:
        job = run.ray_job["metadata"]["labels"][JOB_NAME]
        started.append(job)
        run.player.look_again()
        await may_end.setdefault(job, asyncio.Event()).wait()
        await succeeds(run)

    asyncio.run(two_tenants(control_plane, namespace, other_namespace, plot, name, started, may_end))
    assert started == ["a1", "a2", "b1", "a3", "a4"]


async def two_tenants(
    plane: ControlPlane,
    first: str,
    second: str,
    plot: Plot,
    name: str,
    started: list[str],
    may_end: dict[str, asyncio.Event],
) -> None:
    async with staged(plane, first, plot) as a, staged(plane, second, plot, replica=a.replica) as b:
        a.replica.start()
        await a.client.create(RUNTIMES, runtime(name, limits={"maxRunningJobs": 2}))
        for job in ("a1", "a2"):
            await a.apply(job, runtimeRef={"name": name})
            await a.player.until(partial(started.count, job), job)
        for stage, job in ((a, "a3"), (a, "a4"), (b, "b1")):
            await stage.apply(job, runtimeRef={"name": name})
            await stage.player.phase_is(job, "Queued")
        for ends, follows, stage in (("a1", "b1", b), ("a2", "a3", a), ("b1", "a4", a)):
            may_end.setdefault(ends, asyncio.Event()).set()
            await stage.player.until(partial(started.count, follows), follows)
        for job in ("a3", "a4"):
            may_end.setdefault(job, asyncio.Event()).set()
            await a.player.phase_is(job, "Succeeded")
        await a.replica.stop()
