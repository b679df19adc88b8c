"""A result that the operator heard and could not write down before it crashed is told again to the next one."""

from __future__ import annotations

import asyncio

from control_plane import ControlPlane
from finetune_operator.core.lease import DEFAULT_TIMES
from finetune_operator.core.metrics import REGISTRY
from finetune_trainer.launch.progress import LAST_REPORTS, REQUEST_TIMEOUT
from kube_proxy import KubeProxy
from player import Run
from running import expire_lease
from stage import staged

RESULT = {"kind": "result", "output": "s3://models/x", "verdict": "Improved"}


def heard() -> float:
    """Reports that this process has answered."""
    samples = (one for metric in REGISTRY.collect() for one in metric.samples)
    return sum(one.value for one in samples if one.name == "finetune_progress_reports_total")


def test_a_run_tells_its_result_for_longer_than_another_replica_needs_to_lead() -> None:
    assert DEFAULT_TIMES.duration + 2 * DEFAULT_TIMES.period + REQUEST_TIMEOUT < LAST_REPORTS


def test_a_result_survives_a_crash_before_the_status_is_written(
    control_plane: ControlPlane, namespace: str, proxy: KubeProxy
) -> None:
    cut_off = asyncio.Event()

    async def plot(run: Run) -> None:
        await run.trains()
        await asyncio.to_thread(proxy.cut)
        cut_off.set()
        await run.tell(RESULT)
        await run.driver("SUCCEEDED", "Complete")

    async def main() -> None:
        async with staged(control_plane, namespace, plot, kubeconfig=proxy.kubeconfig()) as stage:
            stage.replica.start()
            await stage.apply()
            await cut_off.wait()
            before = heard()
            while heard() == before:
                await asyncio.sleep(0.02)
            await stage.replica.kill()
            await expire_lease(stage.client, namespace)
            await asyncio.to_thread(proxy.mend)
            stage.replica.start()
            found = await stage.player.phase_is("bot", "Succeeded")
            assert found["status"]["output"] == {"uri": "s3://models/x", "verdict": "Improved"}

    asyncio.run(asyncio.wait_for(main(), 60))
