"""More jobs at once than the operator starts at once: each is told at once that it was seen, and then started."""

from __future__ import annotations

import asyncio

from control_plane import ControlPlane
from kube_proxy import KubeProxy
from player import waits
from stage import Stage, on_stage, staged

CROWD = 24


def test_the_jobs_of_a_crowd_have_a_status_before_they_are_started(
    control_plane: ControlPlane, namespace: str, proxy: KubeProxy
) -> None:
    async def main() -> None:
        async with staged(control_plane, namespace, waits, kubeconfig=proxy.kubeconfig()) as stage:
            for number in range(CROWD):
                await stage.apply(f"bot-{number}")
            stage.replica.start()
            await stage.player.until(lambda: attempts(stage) == [1] * CROWD, "all started")
            writes = proxy.asked
            told = [number for number, write in enumerate(writes) if write == ("patch", "finetunejobs", "status")]
            started = [number for number, write in enumerate(writes) if write == ("create", "rayjobs", "")]
            assert len(started) == CROWD
            # A start or two slips in: what runs already must not wait for ever behind new jobs.
            assert sum(number < told[CROWD - 1] for number in started) <= CROWD // 4

    asyncio.run(asyncio.wait_for(main(), 120))


def test_a_job_that_comes_alone_gets_its_first_status_when_its_attempt_is_there(
    control_plane: ControlPlane, namespace: str, proxy: KubeProxy
) -> None:
    async def script(stage: Stage) -> None:
        await stage.replica.leads()
        await stage.apply("bot-0")
        await stage.player.until(lambda: attempts(stage) == [1], "started")
        writes = proxy.asked
        assert ("patch", "finetunejobs", "status") not in writes[: writes.index(("create", "rayjobs", ""))]

    on_stage(control_plane, namespace, script, waits, kubeconfig=proxy.kubeconfig())


def attempts(stage: Stage) -> list[int]:
    """The number of the newest attempt of each job that has one."""
    found = [job.get("status") or {} for job in stage.player.jobs.store.all()]
    return [status["attempts"][-1]["number"] for status in found if status.get("attempts")]
