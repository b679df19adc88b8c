"""An operator that starts while the API server is away waits for it, and says what it waits for."""

from __future__ import annotations

import asyncio

from control_plane import ControlPlane
from kube_proxy import KubeProxy
from player import succeeds
from running import free_port, health
from stage import staged


def test_an_operator_that_starts_in_an_outage_is_alive_and_goes_on_after_it(
    control_plane: ControlPlane, namespace: str, proxy: KubeProxy
) -> None:
    async def main() -> None:
        async with staged(control_plane, namespace, succeeds, kubeconfig=proxy.kubeconfig()) as stage:
            await asyncio.to_thread(proxy.cut)
            port = stage.replica.health_port = free_port()
            stage.replica.start()
            while "finetunejobs are not listed yet: " not in (said := (await health(port, "/readyz"))[1]):
                await asyncio.sleep(0.02)
            assert "reports: nobody listens for them yet" in said
            assert await health(port, "/healthz") == (200, "ok")
            await asyncio.to_thread(proxy.mend)
            await stage.apply()
            await stage.player.phase_is("bot", "Succeeded")
            assert await health(port, "/readyz") == (200, "ok")
            assert stage.replica.ends == []

    asyncio.run(asyncio.wait_for(main(), 60))
