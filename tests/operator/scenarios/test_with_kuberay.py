"""The operator with KubeRay's real one: clusters are made, given back and cleaned up; only kubelets are missing."""

from __future__ import annotations

import asyncio

import pytest

from control_plane import ControlPlane
from finetune_operator.api.job import ROLE
from finetune_operator.kube.resources import RAYCLUSTERS
from stage import Stage, staged


async def pods_are_there(stage: Stage) -> None:
    """Head and worker of one attempt."""
    roles = ["head", "worker"]
    pods = stage.player.pods.store
    await stage.player.until(lambda: sorted(one["metadata"]["labels"][ROLE] for one in pods.all()) == roles, "pods")


@pytest.mark.usefixtures("kuberay_controller")
def test_kuberay_makes_the_cluster_of_a_job_and_all_of_it_goes(control_plane: ControlPlane, namespace: str) -> None:
    async def main() -> None:
        async with staged(control_plane, namespace, kuberay=True) as stage:
            stage.replica.start()
            await stage.apply()
            await pods_are_there(stage)
            (ray_job,) = stage.player.ray_jobs.store.all()
            accepted = await stage.player.until(
                lambda: next((one for one in stage.player.ray_jobs.store.all() if one.get("status")), None), "accepted"
            )
            assert accepted["status"]["jobDeploymentStatus"] == "Initializing"

            await stage.change(suspend=True)
            await stage.player.phase_is("bot", "Suspended")
            await stage.player.cleared()

            await stage.change(suspend=False)
            await pods_are_there(stage)
            (second,) = stage.player.ray_jobs.store.all()
            assert second["metadata"]["name"] != ray_job["metadata"]["name"]

            await stage.delete()
            await stage.gone()
            async with asyncio.timeout(20):
                while [
                    one async for page in stage.client.pages(RAYCLUSTERS, namespace=namespace) for one in page.items
                ]:
                    await asyncio.sleep(0.1)

    asyncio.run(main())
