"""Pods that go: on nodes that do not answer, deleted by force at once; and by the hand of somebody, with notice."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from finetune_operator.api.job import ATTEMPT, ROLE
from finetune_operator.api.reasons import ConditionType, Reason
from finetune_operator.api.report import Failure
from finetune_operator.observe import PodView, read_pod
from finetune_operator.policy.actions import Decision, DeleteRayJob, ForceDeletePod
from finetune_operator.policy.decide import decide
from finetune_operator.trim import trim_pod
from looks import T0, World, after, heard, pod, pods, ray_job

TAINTED = "DeletionByTaintManager"


def look(world: World) -> Decision:
    found = decide(world.seen())
    world.write(found.status)
    return found


def training() -> World:
    world = World(ray_jobs={1: ray_job()}, pods=pods(), heard=heard(step=5))
    look(world)
    return world


def seen(ready: dict[str, Any]) -> PodView:
    """A pod with this condition Ready, as the caches hold it."""
    metadata = {
        "name": "w",
        "uid": "u",
        "creationTimestamp": "2026-11-27T12:00:00Z",
        "labels": {ATTEMPT: "1", ROLE: "worker"},
    }
    found = {"metadata": metadata, "status": {"phase": "Running", "conditions": [{"type": "Ready", **ready}]}}
    view = read_pod(trim_pod(found))
    assert view is not None
    return view


def test_the_node_controller_gives_no_reason_for_what_is_unready_and_a_kubelet_does() -> None:
    at = {"lastTransitionTime": "2026-11-27T12:01:00Z"}
    assert seen({"status": "False", **at}).cut_off_since == after(60)
    assert seen({"status": "False", "reason": "ContainersNotReady", **at}).cut_off_since is None
    assert seen({"status": "True", **at}).cut_off_since is None


def lost_worker(since: datetime, deleted: datetime, **more: Any) -> PodView:
    return pod(number=1, ready=False, cut_off_since=since, deleting_since=deleted, grace_seconds=330, **more)


def test_a_pod_that_was_cut_off_before_it_was_deleted_goes_at_once() -> None:
    world = training()
    lost = lost_worker(T0, after(60), disruption=TAINTED)
    world.pods, world.now = (pod("head"), pod(), lost), after(60)
    found = look(world)
    assert found.actions == (ForceDeletePod(lost),)
    ready = found.status.condition(ConditionType.CLUSTER_READY)
    assert ready is not None and (ready.status, ready.reason) == ("False", Reason.NODE_LOST)


def test_a_kubelet_has_time_to_say_that_it_lives() -> None:
    world = training()
    lost = lost_worker(after(60), T0)
    world.pods, world.now = (pod("head"), pod(), lost), after(69)
    waiting = look(world)
    assert (waiting.actions, waiting.wake_after) == ((), timedelta(seconds=1))
    world.now = after(70)
    assert look(world).actions == (ForceDeletePod(lost),)


def test_a_pod_on_a_node_that_answers_keeps_its_grace_though_its_node_is_tainted() -> None:
    world = training()
    leaving = pod(number=1, ready=False, deleting_since=T0, grace_seconds=330, disruption=TAINTED)
    world.pods, world.now = (pod("head"), pod(), leaving), after(359)
    assert look(world).actions == ()
    world.now = after(360)
    assert look(world).actions == (ForceDeletePod(leaving),)


def test_a_head_that_still_commits_on_a_tainted_node_is_not_given_up() -> None:
    world = training()
    head = pod("head", ready=False, deleting_since=T0, grace_seconds=330, disruption=TAINTED)
    world.pods, world.now = (head, pod(), pod(number=1)), after(100)
    status = look(world).status
    assert status.attempt is not None and status.attempt.finished_at is None


def test_a_head_whose_node_fell_silent_while_it_was_stopped_is_lost_when_the_kubelet_had_its_time() -> None:
    world = training()
    head = pod("head", ready=False, cut_off_since=after(60), deleting_since=after(30), grace_seconds=330)
    world.pods, world.now = (head, pod(), pod(number=1)), after(60)
    waiting = look(world)
    assert waiting.status.attempt is not None and waiting.status.attempt.finished_at is None
    assert waiting.wake_after == timedelta(seconds=10)
    world.now = after(70)
    ended = look(world).status.attempt
    assert ended is not None and (ended.reason, ended.node) == (Reason.NODE_LOST, "node-1")


def test_the_next_attempt_does_not_wait_for_a_pod_that_cannot_end() -> None:
    world = training()
    head = pod("head", ready=False, cut_off_since=T0, deleting_since=after(60), grace_seconds=330, disruption=TAINTED)
    world.pods, world.now = (head, *pods()[1:]), after(60)
    assert look(world).status.attempt is not None
    found = look(world)
    assert [type(action) for action in found.actions] == [DeleteRayJob, ForceDeletePod]


@pytest.mark.parametrize("cut_off", [True, False])
def test_a_failure_of_the_ranks_counts_as_a_lost_node_before_the_node_is_given_up(cut_off: bool) -> None:
    world = training()
    silent = pod(number=1, ready=False, cut_off_since=after(40) if cut_off else None, node="node-2")
    world.pods, world.now = (pod("head"), pod(), silent), after(50)
    world.heard = heard(at=after(5), step=5, failure=Failure(1, "Killed", "the process of rank 1 was killed"))
    world.ray_jobs = {1: ray_job(ray_status="FAILED", deployment="Failed")}
    ended = look(world).status.attempt
    assert ended is not None
    assert (ended.reason, ended.node) == ((Reason.NODE_LOST, "node-2") if cut_off else (Reason.ERROR, None))


def test_a_run_that_was_told_of_a_lost_node_by_ray_has_lost_a_node() -> None:
    world = training()
    world.heard = heard(at=after(5), step=5, failure=Failure(1, "NodeLost", "the node of rank 1 is lost"))
    world.ray_jobs = {1: ray_job(ray_status="FAILED", deployment="Failed")}
    world.now = after(40)
    status = look(world).status
    assert status.attempt is not None and status.attempt.reason == Reason.NODE_LOST
    assert [(one.reason, one.count) for one in status.failures] == [(Reason.NODE_LOST, 1)]


def test_a_worker_that_ran_out_of_memory_until_no_restart_was_left_is_charged_to_that() -> None:
    world = training()
    killed = replace(pod(number=1), ended=(137, "OOMKilled"), ended_at=after(4))
    world.pods, world.now = (pod("head"), pod(), killed), after(40)
    world.heard = heard(at=after(5), step=5, failure=Failure(1, "Killed", "the process of rank 1 was killed"))
    world.ray_jobs = {1: ray_job(ray_status="FAILED", deployment="Failed")}
    status = look(world).status
    assert [(one.reason, one.count) for one in status.failures] == [(Reason.HOST_OUT_OF_MEMORY, 1)]


def test_a_stop_because_somebody_deleted_a_pod_is_charged_as_an_eviction_though_the_pod_is_gone() -> None:
    world = training()
    world.pods = (pod("head"), pod(), pod(number=1, deleting_since=T0, grace_seconds=330))
    noted = look(world).status.condition(ConditionType.CLUSTER_READY)
    assert noted is not None and (noted.status, noted.reason) == ("False", Reason.EVICTED)
    assert "worker-1-1 on node node-1: deleted" in noted.message
    world.pods, world.now = (pod("head"), pod()), after(40)
    world.heard = heard(at=after(5), step=6, failure=Failure(15, "Stopped", "stopped at step 6"))
    world.ray_jobs = {1: ray_job(ray_status="FAILED", deployment="Failed")}
    status = look(world).status
    assert [(one.reason, one.count) for one in status.failures] == [(Reason.EVICTED, 1)]


def test_a_head_that_somebody_deleted_and_that_said_nothing_more_is_no_fault_of_its_node() -> None:
    world = training()
    world.pods = (pod("head", deleting_since=T0, grace_seconds=330), *pods()[1:])
    look(world)
    world.pods = (pod("head", phase="Failed", ready=False, ended=(1, "Error"), deleting_since=T0), *pods()[1:])
    ended = look(world).status.attempt
    assert ended is not None and (ended.reason, ended.node) == (Reason.EVICTED, None)


@pytest.mark.parametrize(("code", "ended", "deleted"), [(127, 3, 3), (1, 2, 3), (1, 3, None)])
def test_a_head_whose_ray_ended_before_kuberay_deleted_it_was_evicted_by_nobody(
    code: int, ended: int, deleted: int | None
) -> None:
    words = "GCS is ready.\n/bin/bash: line 1: ray: command not found"
    head = pod("head", ready=False, ended=(code, "Error"), ended_at=after(ended), last_words=words)
    world = World(ray_jobs={1: ray_job(ray_status="", deployment="Initializing")}, pods=(pod("head"), pod()))
    look(world)
    world.pods = (replace(head, deleting_since=None if deleted is None else after(deleted), grace_seconds=330), pod())
    attempt = look(world).status.attempt
    assert attempt is not None and (attempt.reason, attempt.node) == (Reason.RAY_INTERNAL, "node-1")
    assert attempt.message is not None and f"exit code {code}: /bin/bash: line 1: ray: command not" in attempt.message


def test_the_last_words_of_a_head_on_which_a_run_had_begun_may_be_data_and_are_not_told() -> None:
    world = training()
    head = pod("head", ready=False, ended=(1, "Error"), ended_at=after(3), last_words="a record")
    world.pods = (head, *pods()[1:])
    attempt = look(world).status.attempt
    assert attempt is not None and attempt.message is not None and "a record" not in attempt.message


@pytest.mark.parametrize("over", [True, False])
def test_pods_that_go_with_a_run_that_has_failed_explain_nothing(over: bool) -> None:
    world = training()
    if over:
        world.ray_jobs = {1: ray_job(ray_status="FAILED", deployment="Failed", message="exit code 1\nKeyError")}
    else:
        world.heard = heard(at=after(1), step=5, failure=Failure(1, "Error", "KeyError: 'x'"))
    world.pods, world.now = tuple(replace(one, deleting_since=after(2)) for one in pods()), after(3)
    look(world)
    world.pods, world.now = (), after(62)
    world.ray_jobs = {1: ray_job(ray_status="FAILED", deployment="Failed", message="exit code 1\nKeyError")}
    status = look(world).status
    assert [(one.reason, one.count) for one in status.failures] == [(Reason.ERROR, 1)]


def test_a_pod_in_which_ray_never_ran_is_not_waited_for() -> None:
    world = World(ray_jobs={1: ray_job(deployment="Failed", ray_status="FAILED")}, pods=pods(), heard=heard())
    look(world)
    successor = pod("worker-1-2", phase="Pending", ready=False, deleting_since=T0, grace_seconds=90)
    world.pods = (successor, replace(successor, name="worker-1-1", phase="Running"))
    assert [one.pod.name for one in look(world).actions if isinstance(one, ForceDeletePod)] == [successor.name]
