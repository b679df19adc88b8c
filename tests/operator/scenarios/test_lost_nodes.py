"""Nodes that go away: their pods are replaced at once, and the next attempt goes elsewhere and has longer to commit."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from control_plane import ControlPlane
from finetune_operator.api.job import ATTEMPT, ROLE
from finetune_operator.kube import Object
from finetune_operator.kube.resources import PODS, Resource
from player import Run, loses_its_node, waits
from stage import Stage, on_stage, staged

NODE = "node-9"


async def runs(stage: Stage, pod: Object, **ready: str) -> None:
    """The scheduler binds the pod; its kubelet runs it, and says of its readiness what is given."""
    name = pod["metadata"]["name"]
    binding = Resource("", "v1", f"pods/{name}/binding", "Binding")
    target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
    metadata = {"name": name, "namespace": stage.namespace}
    await stage.client.create(binding, {"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": target})
    await condition(stage, pod, **ready)


async def condition(stage: Stage, pod: Object, **ready: str) -> None:
    """Write the condition Ready of a pod that runs."""
    long_ago = (datetime.now(UTC) - timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    status = {"phase": "Running", "conditions": [{"type": "Ready", "lastTransitionTime": long_ago, **ready}]}
    await stage.player.set_status(PODS, stage.namespace, pod["metadata"]["name"], status)


def workers(stage: Stage) -> list[Object]:
    """The worker pods that are there."""
    return [one for one in stage.player.pods.store.all() if one["metadata"]["labels"][ROLE] == "worker"]


@pytest.mark.usefixtures("kuberay_controller")
def test_kuberay_replaces_a_pod_that_was_cut_off_at_once_and_one_that_still_commits_is_left_alone(
    control_plane: ControlPlane, namespace: str
) -> None:
    """Both are deleted as a taint deletes them; the node of one of them answers, and says why the pod is unready."""

    async def main() -> None:
        async with staged(control_plane, namespace, kuberay=True) as stage:
            stage.player.hold_pods = True
            stage.replica.start()
            await stage.apply(workers={"replicas": 2, "gpusPerReplica": 0})
            await stage.player.until(lambda: len(stage.player.pods.store.all()) == 3, "head and workers")
            commits, lost = workers(stage)
            for pod in stage.player.pods.store.all():
                await runs(stage, pod, status="True")
            await condition(stage, commits, status="False", reason="ContainersNotReady")
            await condition(stage, lost, status="False")
            for pod in (commits, lost):
                await stage.client.delete(PODS, namespace, pod["metadata"]["name"])
            names = {pod["metadata"]["name"] for pod in (commits, lost)}
            replaced = await stage.player.until(
                lambda: [one for one in workers(stage) if one["metadata"]["name"] not in names], "a replacement"
            )
            left = {one["metadata"]["name"] for one in workers(stage)}
            assert commits["metadata"]["name"] in left and lost["metadata"]["name"] not in left
            assert {one["metadata"]["labels"][ATTEMPT] for one in (commits, *replaced)} == {"1"}
            await stage.player.release_pods()

    asyncio.run(asyncio.wait_for(main(), 120))


async def commits_slowly(run: Run) -> None:
    """Tells of a commit that took 400 s, after steps of up to 20 s, and loses its node."""
    slow = {"kind": "checkpoint", "step": 5, "uri": "s3://ckpt/x", "seconds": 399.5, "stepSeconds": 20, "bytes": 2**40}
    await run.tell({"kind": "progress", "step": 5, "totalSteps": 10, "percent": 50.0}, slow)
    await run.player.until(lambda: warned(run.player.job("bot") or {}), "a warning")
    await loses_its_node(run)


def warned(job: Object) -> str:
    """What the job's condition says of a commit that is too slow."""
    conditions = (job.get("status") or {}).get("conditions") or ()
    return next((str(one["message"]) for one in conditions if one["reason"] == "CommitExceedsGrace"), "")


def test_the_attempt_after_a_slow_commit_and_two_lost_nodes_has_more_time_on_another_node(
    control_plane: ControlPlane, namespace: str
) -> None:
    async def script(stage: Stage) -> None:
        await stage.apply()
        await stage.player.until(lambda: len(stage.player.played) == 3, "a third attempt")
        await stage.player.phase_is("bot", "Training")
        job = stage.player.job("bot") or {}
        first, second, third = job["status"]["attempts"]
        assert [one.get("node") for one in (first, second, third)] == ["node-1", "node-1", None]
        assert [one["graceSeconds"] for one in (first, second, third)] == [300, 1640, 1640]
        assert third["avoidedNodes"] == ["node-1"]
        (worker,) = workers(stage)
        (rule,) = worker["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
            "nodeSelectorTerms"
        ]
        assert rule["matchFields"] == [{"key": "metadata.name", "operator": "NotIn", "values": ["node-1"]}]
        assert worker["spec"]["terminationGracePeriodSeconds"] == 1670
        admitted = next(one for one in job["status"]["conditions"] if one["type"] == "Admitted")
        assert "2 attempts ended on node-1" in admitted["message"]

    on_stage(control_plane, namespace, script, commits_slowly, loses_its_node, waits)
