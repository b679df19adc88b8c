"""How many jobs there are is told by one replica, so that the sum over all of them is right."""

from __future__ import annotations

import asyncio

from control_plane import ControlPlane
from finetune_operator.application import LEASE
from finetune_operator.core.metrics import REGISTRY
from finetune_operator.kube.resources import LEASES
from player import succeeds
from running import expire_lease, free_port, health
from stage import staged


def jobs(phase: str) -> float | None:
    """What this process tells Prometheus."""
    return REGISTRY.get_sample_value("finetune_jobs", {"phase": phase})


def test_only_the_leader_tells_how_many_jobs_there_are(control_plane: ControlPlane, namespace: str) -> None:
    held = {"holderIdentity": "another", "leaseDurationSeconds": 3600}
    metadata = {"namespace": namespace, "name": LEASE}
    lease = {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": held}

    async def main() -> None:
        async with staged(control_plane, namespace, succeeds) as stage:
            await stage.client.create(LEASES, lease)
            await stage.apply()
            port = stage.replica.health_port = free_port()
            stage.replica.start()
            while (await health(port, "/readyz"))[0] != 200:
                await asyncio.sleep(0.02)
            assert jobs("Pending") is None
            await expire_lease(stage.client, namespace)
            await stage.player.phase_is("bot", "Succeeded")
            while jobs("Succeeded") != 1:
                await asyncio.sleep(0.02)
            assert (jobs("Pending"), jobs("Failed")) == (0, 0)
            await stage.replica.stop()
            assert jobs("Succeeded") is None

    asyncio.run(asyncio.wait_for(main(), 60))
