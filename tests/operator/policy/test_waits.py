"""What a job waits for is said: pods that the cluster refuses, KubeRay that does nothing, clusters that do not go."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from finetune_operator.api.job import ATTEMPT, ROLE
from finetune_operator.api.reasons import ConditionType, Phase, Reason
from finetune_operator.api.report import Failure
from finetune_operator.api.status import Condition, JobStatus
from finetune_operator.observe import read_pod, read_ray_job
from finetune_operator.policy import deadlines
from finetune_operator.policy.actions import RemoveFinalizer
from finetune_operator.policy.decide import decide
from looks import T0, World, after, heard, make_job, pod, pods, ray_job

REFUSED = (
    'pods "x-head-" is forbidden: error looking up service account team-a/trainr: serviceaccount "trainr" not found'
)
KUBERAYS = "ray.io/rayjob-finalizer"


def look(world: World) -> JobStatus:
    """Decide and write the status."""
    found = decide(world.seen()).status
    world.write(found)
    return found


def cluster_ready(status: JobStatus) -> Condition:
    found = status.condition(ConditionType.CLUSTER_READY)
    assert found is not None
    return found


def starting(**view: Any) -> World:
    """An attempt that KubeRay has taken up, without pods."""
    return World(ray_jobs={1: ray_job(**{"ray_status": "", "deployment": "Initializing", **view})})


def test_why_kuberay_may_create_no_pod_is_read_from_the_ray_job() -> None:
    labels = {ATTEMPT: "1"}
    failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreateHeadPod"}
    found: dict[str, Any] = {
        "metadata": {"name": "x", "uid": "u", "labels": labels, "creationTimestamp": "2026-11-27T12:00:00Z"},
        "status": {"rayClusterStatus": {"conditions": [{**failure, "message": f"FailedCreateHeadPod\n{REFUSED}"}]}},
    }
    view = read_ray_job(found)
    assert view is not None and view.refused == REFUSED
    for other in ({"status": "False"}, {"reason": "FailedDeleteWorkerPod"}):
        found["status"]["rayClusterStatus"]["conditions"] = [{**failure, **other}]
        view = read_ray_job(found)
        assert view is not None and view.refused is None


def test_a_container_that_was_started_again_still_says_how_it_ended_before() -> None:
    ended = {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-11-27T12:00:07Z"}
    labels = {ATTEMPT: "1", ROLE: "worker"}
    metadata = {"name": "x", "uid": "u", "labels": labels, "creationTimestamp": "2026-11-27T12:00:00Z"}
    view = read_pod({"metadata": metadata, "status": {"containerStatuses": [{"lastState": {"terminated": ended}}]}})
    assert view is not None and (view.ended, view.ended_at) == ((137, "OOMKilled"), after(7))


@pytest.mark.parametrize("there", [(), (pod("head"), pod())])
def test_pods_that_the_cluster_refuses_are_told_until_they_are_there(there: tuple[Any, ...]) -> None:
    world = starting(refused=REFUSED)
    world.pods = there
    found = cluster_ready(look(world))
    assert (found.status, found.reason) == ("False", Reason.FORBIDDEN)
    assert REFUSED in found.message
    world.pods = pods()  # KubeRay says so a little later
    assert cluster_ready(look(world)).reason == Reason.READY


def test_an_attempt_whose_pods_are_refused_ends_by_the_start_deadline_with_the_cause() -> None:
    world = starting(refused=REFUSED)
    assert decide(world.seen()).wake_after == timedelta(seconds=3600)
    look(world)
    world.now = after(3600)
    ended = look(world).attempt
    assert ended is not None and (ended.outcome, ended.reason) == ("Failed", Reason.START_DEADLINE)
    assert REFUSED in (ended.message or "")


def test_the_start_deadline_begins_when_the_queue_lets_the_attempt_in() -> None:
    world = starting(suspended=True, queue="a")
    look(world)
    world.now = after(5000)
    world.ray_jobs = starting(queue="a").ray_jobs
    found = decide(world.seen())
    assert (found.status.phase, found.wake_after) == (Phase.STARTING, deadlines.KUBERAY_ANSWERS)
    look(world)
    world.now = after(8599)
    living = look(world).attempt
    assert living is not None and living.finished_at is None
    world.now = after(8600)
    ended = look(world).attempt
    assert ended is not None and ended.reason == Reason.START_DEADLINE


def test_a_ray_job_that_kuberay_does_not_take_up_is_told() -> None:
    world = starting(deployment="")
    assert decide(world.seen()).wake_after == timedelta(seconds=60)
    assert cluster_ready(look(world)).reason == Reason.STARTING
    world.now = after(60)
    found = cluster_ready(look(world))
    assert found.reason == Reason.KUBERAY_SILENT and "support-bot-abcde-1" in found.message
    world.ray_jobs = starting().ray_jobs
    found = cluster_ready(look(world))
    assert found.reason == Reason.KUBERAY_SILENT and "has created no pod" in found.message
    world.pods = (pod("head", ready=False),)
    assert cluster_ready(look(world)).reason == Reason.STARTING


def test_containers_that_cannot_start_are_no_deadline_before_it_is_over() -> None:
    world = starting()
    secret = ("CreateContainerConfigError", 'secret "team-a-s3" not found')
    world.pods = (pod("head", phase="Pending", ready=False, waiting=secret),)
    found = cluster_ready(look(world))
    assert found.reason == Reason.CONTAINERS_NOT_READY and 'secret "team-a-s3" not found' in found.message
    world.now = after(3600)
    ended = look(world).attempt
    assert ended is not None and ended.reason == Reason.START_DEADLINE


def test_a_pod_that_is_taken_away_is_told_and_remembered_until_it_is_replaced() -> None:
    world = World(ray_jobs={1: ray_job()}, pods=pods(), heard=heard())
    head, one, two = pods()
    drained = replace(one, deleting_since=T0, grace_seconds=330, disruption="EvictionByEvictionAPI")
    world.pods = (head, drained, two)
    found = cluster_ready(look(world))
    assert (found.status, found.reason) == ("False", Reason.EVICTED)
    world.pods = (head, replace(drained, phase="Failed", ready=False), two, replace(one, name="worker-1-2"))
    assert cluster_ready(look(world)).reason == Reason.READY


def test_an_eviction_is_remembered_while_its_replacement_waits_for_room() -> None:
    world = World(ray_jobs={1: ray_job()}, pods=pods(), heard=heard())
    head, one, two = pods()
    world.pods = (head, replace(one, deleting_since=T0, grace_seconds=330, disruption="EvictionByEvictionAPI"), two)
    told = cluster_ready(look(world)).message
    waiting = pod("worker-1-2", phase="Pending", ready=False, unschedulable="0/2 nodes are available")
    for _ in range(2):
        world.pods = (head, waiting, two)
        found = cluster_ready(look(world))
        assert (found.reason, found.message.count("0/2 nodes")) == (Reason.EVICTED, 1)
        assert found.message.startswith(told)


def test_a_pod_that_is_deleted_is_remembered_when_the_run_has_ended_before_it_is_gone() -> None:
    world = World(ray_jobs={1: ray_job()}, pods=pods(), heard=heard())
    head, one, two = pods()
    world.pods = (head, replace(one, deleting_since=T0, grace_seconds=330), two)
    assert cluster_ready(look(world)).reason == Reason.EVICTED
    world.heard = heard(failure=Failure(15, "Stopped", "stopped at step 51 as asked"))
    assert cluster_ready(look(world)).reason == Reason.EVICTED
    world.pods = (head, two)
    world.ray_jobs = {1: ray_job(deployment="Failed", ray_status="FAILED")}
    ended = look(world).attempt
    assert ended is not None and ended.reason == Reason.EVICTED


def deleted(**view: Any) -> World:
    """A deleted job whose attempt has ended, and is not gone."""
    world = World(ray_jobs={1: ray_job()}, pods=pods())
    look(world)
    world.job = replace(world.job, deleted=T0)
    assert look(world).phase == Phase.STOPPING
    world.ray_jobs = {1: ray_job(deleting=True, finalizers=(KUBERAYS,), **view)}
    return world


def test_a_deleted_job_says_that_it_waits_for_kuberay() -> None:
    world = deleted()
    found = decide(world.seen())
    assert cluster_ready(found.status).message == "" and found.wake_after == timedelta(seconds=60)
    world.now = after(60)
    status = look(world)
    told = cluster_ready(status)
    assert (told.reason, status.phase) == (Reason.KUBERAY_SILENT, Phase.STOPPING)
    assert KUBERAYS in told.message and "support-bot-abcde-1" in told.message
    world.ray_jobs, world.pods = {}, ()
    assert any(isinstance(action, RemoveFinalizer) for action in decide(world.seen()).actions)


def test_a_suspended_job_is_stopping_until_its_pods_are_gone_and_names_them_when_that_takes_long() -> None:
    world = World(ray_jobs={1: ray_job()}, pods=pods())
    look(world)
    world.change(suspend=True)
    assert look(world).phase == Phase.STOPPING
    world.ray_jobs, world.pods, world.now = {}, (pod(),), after(60)
    status = look(world)
    assert (status.phase, cluster_ready(status).reason) == (Phase.STOPPING, Reason.STOPPING)
    assert cluster_ready(status).message == "waits for the end of pod worker-1-0"
    world.pods = ()
    status = look(world)
    assert (status.phase, cluster_ready(status).reason) == (Phase.SUSPENDED, Reason.SUSPENDED)
    assert cluster_ready(status).message == ""


def test_a_job_that_is_asked_to_stop_is_stopping_while_it_commits() -> None:
    world = World(job=make_job(activeDeadlineSeconds=60), ray_jobs={1: ray_job()}, pods=pods(), heard=heard())
    look(world)
    world.now = after(60)
    status = look(world)
    assert (status.phase, status.holds(ConditionType.TRAINING)) == (Phase.STOPPING, True)


def test_a_run_that_has_told_its_failure_is_not_starting() -> None:
    world = World(ray_jobs={1: ray_job()}, pods=pods(), heard=heard(failure=Failure(1, "Error", "broken")))
    assert look(world).phase == Phase.STOPPING
    world.heard = heard(at=after(5), step=2)  # Ray Train has restarted its workers
    assert look(world).phase == Phase.TRAINING
