"""Elastic jobs: a cluster begins with the fewest workers, is whole with them, and wants all once its driver runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from finetune_operator.api.reasons import ConditionType
from finetune_operator.policy.actions import ScaleCluster
from finetune_operator.policy.decide import decide
from looks import World, heard, make_job, manifest, pod, ray_job
from rendering import render

WORKERS = {"replicas": 3, "minReplicas": 1, "gpusPerReplica": 0}


def elastic(wanted: int | None = 1, **changes: Any) -> World:
    view = replace(ray_job(**changes), cluster="support-bot-abcde-1-xyz", wanted_workers=wanted)
    return World(make_job(**manifest()["spec"] | {"workers": WORKERS}), ray_jobs={1: view}, pods=(pod("head"), pod()))


def scaled(world: World) -> list[int]:
    return [action.workers for action in decide(world.seen()).actions if isinstance(action, ScaleCluster)]


def test_all_workers_are_wanted_once_the_driver_runs() -> None:
    starting = elastic(ray_status="", deployment="Initializing")
    assert scaled(starting) == []
    world = elastic()
    assert scaled(world) == [3]
    assert scaled(elastic(wanted=3)) == []
    assert scaled(elastic(wanted=None)) == [], "what KubeRay has not told is not guessed"


def test_no_worker_is_added_to_a_run_that_shall_stop() -> None:
    world = elastic()
    world.write(decide(world.seen()).status)
    world.change(suspend=True)
    assert scaled(world) == []


def test_a_cluster_is_ready_with_the_fewest_workers_and_says_how_many_there_are() -> None:
    world = elastic()
    world.pods = (*world.pods, pod(number=1, ready=False, unschedulable="0/2 nodes are available"))
    world.heard = heard(step=5)
    status = decide(world.seen()).status
    ready = status.condition(ConditionType.CLUSTER_READY)
    assert ready is not None and ready.status == "True"
    assert ready.message == "head and 1 of 3 workers are ready"
    assert status.workers is not None and (status.workers.ready, status.workers.desired) == (1, 3)


def test_the_cluster_is_rendered_with_the_fewest_workers_and_in_a_queue_with_all() -> None:
    spec = manifest()["spec"] | {"workers": WORKERS}
    counts = ("replicas", "minReplicas", "maxReplicas")
    for queued, first in (({}, 1), ({"queueName": "team-a"}, 3)):
        (group,) = render(make_job(**spec | queued))["RayJob"]["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        assert [group[name] for name in counts] == [first, 1, 3]
