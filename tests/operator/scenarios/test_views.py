"""What the operator sees may be old, have gaps, or be of another job of the same name (the patterns of Sieve)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from control_plane import ControlPlane
from finetune_operator.api.job import FINALIZER, JOB_UID
from finetune_operator.kube.resources import JOBS
from kube_faults import failure, stall
from kube_proxy import KubeProxy
from player import Plot, Run, loses_its_node, succeeds, waits
from running import Replica, expire_lease
from stage import Stage, staged

WATCHED = {"finetunejobs", "rayjobs", "pods"}
TOO_OLD = {"type": "ERROR", "object": failure(410, "Expired", "too old resource version")}


def play(
    plane: ControlPlane, namespace: str, proxy: KubeProxy, script: Callable[[Stage], Awaitable[None]], *plots: Plot
) -> None:
    async def main() -> None:
        async with staged(plane, namespace, *plots, kubeconfig=proxy.kubeconfig()) as stage:
            await script(stage)

    asyncio.run(asyncio.wait_for(main(), 120))


async def crash(stage: Stage) -> None:
    """The operator dies, and its lease with it."""
    await stage.replica.kill()
    await expire_lease(stage.client, stage.namespace)


def test_an_operator_whose_view_is_from_before_the_first_attempt_creates_no_other(
    control_plane: ControlPlane, namespace: str, proxy: KubeProxy
) -> None:
    async def script(stage: Stage) -> None:
        await stage.apply()
        await asyncio.to_thread(proxy.freeze, "finetunejobs", "rayjobs", "pods")
        for _ in range(2):
            seen = proxy.count("patch", "finetunejobs")
            stage.replica.start()
            await stage.player.until(stage.player.ray_jobs.store.all, "a RayJob")
            while proxy.count("patch", "finetunejobs") == seen:  # it has acted on what it sees
                await asyncio.sleep(0.02)
            await crash(stage)
        stage.replica.start()
        await asyncio.to_thread(proxy.thaw)
        await stage.player.phase_is("bot", "Succeeded")
        await stage.player.cleared()
        assert (await stage.outcome())["attempts"] == [(1, "Succeeded", "Succeeded")]
        assert len(stage.player.played) == 1

    play(control_plane, namespace, proxy, script, succeeds)


def test_an_operator_whose_view_is_an_attempt_behind_disturbs_the_new_one_in_nothing(
    control_plane: ControlPlane, namespace: str, proxy: KubeProxy
) -> None:
    node_fails, may_end = asyncio.Event(), asyncio.Event()

    async def first(run: Run) -> None:
        await run.trains()
        await node_fails.wait()
        await loses_its_node(run)

    async def second(run: Run) -> None:
        await run.trains()
        await may_end.wait()
        await succeeds(run)

    async def script(stage: Stage) -> None:
        ahead = Replica(control_plane.kubeconfig(), namespace, "ahead")
        ahead.port = stage.replica.port
        ahead.start()
        await stage.apply()
        await stage.player.phase_is("bot", "Training")
        await asyncio.to_thread(proxy.freeze, "finetunejobs", "rayjobs", "pods")
        node_fails.set()
        await stage.player.until(lambda: len(stage.player.played) == 2, "the second attempt")
        await stage.player.phase_is("bot", "Training")
        await ahead.kill()
        await expire_lease(stage.client, namespace)
        before = len(proxy.steps)
        stage.replica.start()
        await stage.replica.leads()
        may_end.set()
        await asyncio.to_thread(proxy.thaw)
        await stage.player.phase_is("bot", "Succeeded")
        await stage.player.cleared()
        wanted = [(1, "Failed", "NodeLost"), (2, "Succeeded", "Succeeded")]
        assert (await stage.outcome())["attempts"] == wanted
        assert len(stage.player.played) == 2
        assert len(proxy.steps) > before

    play(control_plane, namespace, proxy, script, first, second)


def test_a_new_leader_whose_watches_hang_repeats_no_attempt_and_ends_none(
    control_plane: ControlPlane, namespace: str, proxy: KubeProxy
) -> None:
    """It knows the job as it was before its first attempt, while the second one is running."""
    may_end = asyncio.Event()

    async def second(run: Run) -> None:
        await may_end.wait()
        await succeeds(run)

    async def script(stage: Stage) -> None:
        await stage.apply(finalizers=[FINALIZER])
        await asyncio.to_thread(proxy.freeze, *WATCHED)
        for resource in WATCHED:
            proxy.inject("watch", stall(), resource=resource)
        ahead = Replica(control_plane.kubeconfig(), namespace, "ahead")
        ahead.start()
        await ahead.leads()
        here, stage.player.port = stage.player.port, lambda: ahead.port
        stage.replica.start()
        while not {one.resource for one in list(proxy.watches)} >= WATCHED:
            await asyncio.sleep(0.02)
        await stage.player.until(lambda: len(stage.player.played) == 2, "the second attempt")
        await stage.player.until(lambda: stage.player.phase("bot") == "Restarting", "it is written down")
        await asyncio.to_thread(proxy.thaw)
        await ahead.stop()
        seen = proxy.count("get", "finetunejobs")
        # it looks itself, twice: at the job, then at what the job has
        while proxy.count("get", "finetunejobs") < seen + 2 and len(stage.player.played) == 2:
            await asyncio.sleep(0.02)
        stage.player.port = here
        may_end.set()
        await asyncio.to_thread(proxy.resume_watches)
        await stage.player.phase_is("bot", "Succeeded")
        await stage.player.cleared()
        wanted = [(1, "Failed", "NodeLost"), (2, "Succeeded", "Succeeded")]
        assert (await stage.outcome())["attempts"] == wanted
        assert len(stage.player.played) == 2

    play(control_plane, namespace, proxy, script, loses_its_node, second)


def test_a_job_that_changes_while_its_watch_hangs_is_read_anew_and_goes_on(
    control_plane: ControlPlane, namespace: str, proxy: KubeProxy
) -> None:
    may_end = asyncio.Event()

    async def plot(run: Run) -> None:
        await run.trains()
        await may_end.wait()
        await succeeds(run)

    async def script(stage: Stage) -> None:
        stage.replica.start()
        await stage.apply()
        await stage.player.phase_is("bot", "Training")
        assert await asyncio.to_thread(proxy.stall_watches, "finetunejobs") == 1
        await stage.client.patch(JOBS, namespace, "bot", {"metadata": {"labels": {"team": "a"}}})
        seen = proxy.count("get", "finetunejobs")
        may_end.set()
        await stage.player.phase_is("bot", "Succeeded")
        await stage.player.cleared()
        assert proxy.count("get", "finetunejobs") == seen + 1

    play(control_plane, namespace, proxy, script, plot)


def test_deletions_that_were_missed_are_found_by_the_next_list(
    control_plane: ControlPlane, namespace: str, proxy: KubeProxy
) -> None:
    async def script(stage: Stage) -> None:
        proxy.hide(lambda event: event["type"] == "DELETED" and event["object"]["kind"] in ("Pod", "RayJob"))
        stage.replica.start()
        await stage.apply()
        await stage.player.until(lambda: stage.player.played, "an attempt")
        await stage.player.until(lambda: stage.player.phase("bot") == "Restarting", "the attempt failed")
        await stage.player.cleared()
        assert len(stage.player.played) == 1  # the operator cannot know that it is gone
        proxy.show()
        for resource in ("pods", "rayjobs"):
            await asyncio.to_thread(proxy.end_watches, resource, TOO_OLD)
        await stage.player.phase_is("bot", "Succeeded")
        assert len(stage.player.played) == 2

    play(control_plane, namespace, proxy, script, loses_its_node, succeeds)


@pytest.mark.parametrize("alive", [True, False], ids=["seen", "while-the-operator-is-down"])
def test_a_job_made_again_under_its_name_has_nothing_of_the_old_one(
    control_plane: ControlPlane, namespace: str, proxy: KubeProxy, alive: bool
) -> None:
    async def script(stage: Stage) -> None:
        stage.replica.start()
        old = await stage.apply()
        await stage.player.phase_is("bot", "Training")
        if not alive:
            await crash(stage)
        stage.player.hold_pods = True
        stage.player.plots = (succeeds,)
        await stage.client.patch(JOBS, namespace, "bot", {"metadata": {"finalizers": None}})
        await stage.delete()
        new = await stage.apply()
        if not alive:
            stage.replica.start()
        await stage.player.phase_is("bot", "Succeeded")
        await stage.player.release_pods()
        await stage.player.cleared()
        uids = {one["metadata"]["labels"][JOB_UID] for one in await stage.children()}
        assert uids == {new["metadata"]["uid"]} != {old["metadata"]["uid"]}
        assert (await stage.outcome())["attempts"] == [(1, "Succeeded", "Succeeded")]

    play(control_plane, namespace, proxy, script, waits)
