"""What KubeRay cannot do for a job is a condition at once and heals by itself; only kubelets are missing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from child import Child
from control_plane import ControlPlane
from finetune_operator.kube import Object
from finetune_operator.kube.resources import SERVICEACCOUNTS
from finetune_operator.policy import deadlines
from refusals import allow, limit
from stage import Stage, staged

pytestmark = pytest.mark.alone

AT_ONCE = 2.0
KUBERAYS = "ray.io/rayjob-finalizer"


def with_kuberay(plane: ControlPlane, namespace: str, script: Callable[[Stage], Awaitable[None]]) -> None:
    """Run a script with the operator and KubeRay's running."""

    async def main() -> None:
        async with staged(plane, namespace, kuberay=True) as stage:
            stage.replica.start()
            await stage.replica.leads()
            await script(stage)

    asyncio.run(asyncio.wait_for(main(), 120))


async def cluster_ready(stage: Stage, reason: str) -> Object:
    """Wait until the job's cluster is not ready for this reason, and return the condition."""

    def found() -> Object | None:
        status = (stage.player.job("bot") or {}).get("status") or {}
        known = {one["type"]: one for one in status.get("conditions") or ()}.get("ClusterReady", {})
        return known if (known.get("status"), known.get("reason")) == ("False", reason) else None

    return await stage.player.until(found, reason)


async def refused(stage: Stage) -> Object:
    """Wait until KubeRay cannot create a pod, and return the job's condition, which must follow at once."""

    def kuberays() -> bool:
        clusters = [
            (one.get("status") or {}).get("rayClusterStatus") or {} for one in stage.player.ray_jobs.store.all()
        ]
        return any(one["type"] == "ReplicaFailure" for cluster in clusters for one in cluster.get("conditions") or ())

    await stage.player.until(kuberays, "KubeRay is refused")
    began = time.monotonic()
    found = await cluster_ready(stage, "Forbidden")
    assert time.monotonic() - began < AT_ONCE
    return found


async def pods(stage: Stage, count: int) -> None:
    """Wait until there are so many pods."""
    await stage.player.until(lambda: len(stage.player.pods.store.all()) == count, f"{count} pods")


@pytest.mark.usefixtures("kuberay_controller")
@pytest.mark.parametrize("most", [0, 1])
def test_a_quota_on_pods_is_told_and_the_pods_come_when_there_is_room(
    control_plane: ControlPlane, namespace: str, most: int
) -> None:
    async def script(stage: Stage) -> None:
        await limit(stage, namespace, pods=most)
        await stage.apply()
        found = await refused(stage)
        assert "exceeded quota: none, requested: pods=1" in found["message"]
        assert len(stage.player.pods.store.all()) == most
        await allow(stage, namespace)
        await pods(stage, 2)
        await cluster_ready(stage, "Starting")

    with_kuberay(control_plane, namespace, script)


@pytest.mark.usefixtures("kuberay_controller")
def test_a_missing_service_account_is_told_and_ends_the_attempt_by_the_start_deadline(
    control_plane: ControlPlane, namespace: str
) -> None:
    cause = 'serviceaccount "trainr" not found'

    async def script(stage: Stage) -> None:
        await stage.apply(serviceAccountName="trainr", startDeadlineSeconds=3)
        assert cause in (await refused(stage))["message"]
        await stage.player.until(lambda: len(stage.player.played) == 2, "another attempt")
        first = (stage.player.job("bot") or {})["status"]["attempts"][0]
        assert (first["outcome"], first["reason"]) == ("Failed", "StartDeadline")
        assert cause in first["message"]
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "trainr", "namespace": namespace}}
        await stage.client.create(SERVICEACCOUNTS, account)
        await pods(stage, 2)

    with_kuberay(control_plane, namespace, script)


def test_a_deleted_job_says_that_it_waits_for_kuberay_and_goes_when_that_is_back(
    control_plane: ControlPlane, namespace: str, kuberay_controller: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadlines, "KUBERAY_ANSWERS", timedelta(seconds=1))

    async def script(stage: Stage) -> None:
        await stage.apply()
        await pods(stage, 2)
        kuberay_controller.kill()
        await stage.delete()
        found = await cluster_ready(stage, "KubeRaySilent")
        assert KUBERAYS in found["message"]
        assert stage.player.phase("bot") == "Stopping"
        kuberay_controller.start()
        await stage.gone()

    with_kuberay(control_plane, namespace, script)


def test_a_ray_job_that_nobody_takes_up_is_told(
    control_plane: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadlines, "KUBERAY_ANSWERS", timedelta(seconds=1))

    async def script(stage: Stage) -> None:
        await stage.apply()
        found = await cluster_ready(stage, "KubeRaySilent")
        assert "has not taken up RayJob bot-" in found["message"]

    with_kuberay(control_plane, namespace, script)
