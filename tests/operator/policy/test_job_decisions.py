"""Decisions over the life of a job: what is done, what is written, and in which order."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from finetune_operator.api.reasons import ConditionType, Phase, Reason
from finetune_operator.api.report import Failure
from finetune_operator.api.status import Condition, Progress
from finetune_operator.policy.actions import (
    Action,
    CreateAttempt,
    Decision,
    DeleteJob,
    DeleteRayJob,
    ForceDeletePod,
    RemoveFinalizer,
)
from finetune_operator.policy.decide import decide
from finetune_operator.policy.seen import Obstacle
from finetune_operator.reconcile import refusal
from finetune_trainer.errors import Problem, SpecError
from looks import T0, World, after, heard, make_job, pod, pods, ray_job


def look(world: World) -> Decision:
    """Decide and write the status, as one reconcile does; actions are left to the test."""
    found = decide(world.seen())
    world.write(found.status)
    return found


def kinds(found: Decision) -> list[type[Action]]:
    return [type(action) for action in found.actions]


def running(world: World, attempt: int = 1, step: int = 5) -> World:
    """An attempt whose ranks have reported."""
    world.ray_jobs = {attempt: ray_job(attempt)}
    world.pods = pods(attempt)
    world.heard = heard(attempt, world.now, step)
    look(world)
    return world


def fail(world: World, attempt: int, code: int = 1) -> Decision:
    """The driver tells a failure and ends."""
    world.heard = heard(attempt, world.now, 5, failure=Failure(code, "Broken", "it broke"))
    world.ray_jobs = {attempt: ray_job(attempt, ray_status="FAILED", deployment="Failed")}
    return look(world)


def clear(world: World) -> World:
    world.ray_jobs, world.pods = {}, ()
    return world


def test_a_new_job_gets_its_first_attempt() -> None:
    assert [action for action in look(World()).actions if isinstance(action, CreateAttempt)] == [CreateAttempt(1)]


def test_an_attempt_that_the_status_does_not_know_is_adopted_and_not_created_again() -> None:
    world = World(ray_jobs={1: ray_job()})
    found = look(world)
    assert found.actions == ()
    assert [one.number for one in found.status.attempts] == [1]
    assert found.status.phase == Phase.STARTING


def test_a_job_that_trains_says_so_with_its_progress() -> None:
    status = running(World()).job.status
    assert status.phase == Phase.TRAINING
    assert status.progress is not None and status.progress.step == 5
    assert status.workers is not None and (status.workers.ready, status.workers.desired) == (2, 2)


def test_a_job_that_still_fetches_its_model_is_starting_and_says_what_it_does() -> None:
    fetching = replace(heard(), progress=Progress(activity="fetching the model"))
    found = look(World(ray_jobs={1: ray_job()}, pods=pods(), heard=fetching))
    training = found.status.condition(ConditionType.TRAINING)
    assert training is not None and (training.status, training.message) == ("False", "fetching the model")
    assert found.status.phase == Phase.STARTING


def test_the_same_look_twice_changes_nothing() -> None:
    world = running(World())
    again = decide(world.seen())
    assert (again.status, again.actions) == (world.job.status, ())


def test_success_is_written_before_the_cluster_is_given_back() -> None:
    world = running(World())
    world.ray_jobs = {1: ray_job(ray_status="SUCCEEDED", deployment="Complete")}
    found = look(world)
    assert (found.status.phase, found.actions) == (Phase.SUCCEEDED, ())
    assert kinds(look(world)) == [DeleteRayJob]
    assert look(clear(world)).actions == ()


def wrong_spec(world: World) -> None:
    """The spec could not be read, as `reconcile` writes it down."""
    problem = SpecError([Problem("spec.model", None, "is unknown")])
    wrong = refusal(Reason.USER_ERROR, str(problem), 1, world.now)
    others = [one for one in world.job.status.conditions if one.type != ConditionType.ADMITTED]
    condition = Condition.model_validate_json(json.dumps(wrong))
    world.write(world.job.status.model_copy(update={"conditions": (*others, condition)}))


@pytest.mark.parametrize("ends", [False, True])
def test_a_spec_that_can_be_read_again_is_not_called_wrong_any_more(ends: bool) -> None:
    world = running(World())
    if ends:
        world.ray_jobs = {1: ray_job(ray_status="SUCCEEDED", deployment="Complete")}
        look(world)
    before = world.job.status
    wrong_spec(world)
    assert not world.job.status.holds(ConditionType.ADMITTED)
    assert look(world).status.condition(ConditionType.ADMITTED) == before.condition(ConditionType.ADMITTED)
    assert look(world).status.phase == before.phase


def test_a_failed_attempt_is_followed_by_the_next_one_after_a_pause_and_only_when_it_is_gone() -> None:
    world = running(World())
    assert fail(world, 1).actions == ()
    assert kinds(look(world)) == [DeleteRayJob]
    world.ray_jobs = {}
    assert look(world).actions == ()  # its pods are still there
    waiting = look(clear(world))
    assert (waiting.actions, waiting.status.phase) == ((), Phase.RESTARTING)
    assert waiting.wake_after == timedelta(seconds=10)
    world.now = after(10)
    assert CreateAttempt(2) in look(world).actions


@pytest.mark.parametrize(("code", "reason"), [(10, Reason.USER_ERROR), (11, Reason.BAD_DATA)])
def test_an_error_of_the_user_fails_the_job_at_once_with_its_cause(code: int, reason: Reason) -> None:
    found = fail(running(World()), 1, code)
    failed = found.status.condition(ConditionType.FAILED)
    assert failed is not None and (failed.status, failed.reason) == ("True", reason)
    assert "it broke" in failed.message and "not retried" in failed.message


def test_attempts_run_out() -> None:
    world = World(job=make_job(failurePolicy={"maxAttempts": 2}))
    fail(running(world), 1)
    world.now = after(60)
    clear(world)
    found = fail(running(world, 2), 2)
    failed = found.status.condition(ConditionType.FAILED)
    assert failed is not None and failed.status == "True" and "2 of 2 attempts" in failed.message
    assert kinds(look(world)) == [DeleteRayJob]


def test_suspending_asks_for_a_commit_and_gives_the_cluster_back_after_it() -> None:
    world = running(World())
    world.change(suspend=True)
    found = look(world)
    assert found.status.stop is not None and found.status.stop.reason == Reason.SUSPENDED
    assert found.actions == ()
    world.heard = heard(1, world.now, 6, failure=Failure(15, "Stopped", "stopped at step 6"))
    world.ray_jobs = {1: ray_job(ray_status="FAILED", deployment="Failed")}
    ended = look(world).status
    assert ended.attempt is not None and (ended.attempt.outcome, ended.attempt.reason) == ("Stopped", Reason.SUSPENDED)
    assert ended.stop is None
    assert kinds(look(world)) == [DeleteRayJob]
    assert look(clear(world)).status.phase == Phase.SUSPENDED
    world.change(suspend=False)
    assert CreateAttempt(2) in look(world).actions


def test_a_stop_that_is_not_answered_ends_by_its_deadline() -> None:
    world = running(World())
    world.change(suspend=True)
    assert look(world).wake_after == timedelta(seconds=300)
    world.now = after(300)
    ended = look(world).status.attempt
    assert ended is not None and ended.outcome == "Stopped"
    assert "no commit within 300 s" in (ended.message or "")


def test_suspending_what_has_not_trained_yet_waits_for_nothing() -> None:
    world = World(ray_jobs={1: ray_job()}, pods=pods())
    look(world)
    world.change(suspend=True)
    attempt = look(world).status.attempt
    assert attempt is not None and attempt.outcome == "Stopped"


def test_a_deleted_job_is_held_until_its_pods_are_gone() -> None:
    world = running(World())
    world.job = replace(world.job, deleted=T0)
    found = look(world)
    assert found.status.stop is not None and found.actions == ()
    world.heard = heard(1, world.now, 6, failure=Failure(15, "Stopped", "stopped"))
    world.ray_jobs = {1: ray_job(ray_status="FAILED", deployment="Failed")}
    assert look(world).actions == ()
    assert kinds(look(world)) == [DeleteRayJob]
    world.ray_jobs = {}
    assert look(world).actions == ()
    assert kinds(look(clear(world))) == [RemoveFinalizer]


def test_the_total_time_ends_the_job_after_a_commit() -> None:
    world = running(World(job=make_job(activeDeadlineSeconds=100)))
    assert look(world).wake_after == timedelta(seconds=100)
    world.now = after(100)
    found = look(world)
    assert found.status.stop is not None and found.status.stop.reason == Reason.ACTIVE_DEADLINE
    world.heard = heard(1, world.now, 6, failure=Failure(15, "Stopped", "stopped"))
    world.ray_jobs = {1: ray_job(ray_status="FAILED", deployment="Failed")}
    failed = look(world).status.condition(ConditionType.FAILED)
    assert failed is not None and failed.reason == Reason.ACTIVE_DEADLINE


def test_an_attempt_that_does_not_start_in_time_ends_with_what_its_pods_wait_for() -> None:
    stuck = pod(phase="Pending", ready=False, unschedulable="0/2 nodes are available: 2 Insufficient nvidia.com/gpu.")
    world = World(ray_jobs={1: ray_job()}, pods=(pod("head"), stuck))
    assert look(world).wake_after == timedelta(seconds=3600)
    world.now = after(3600)
    ended = look(world).status.attempt
    assert ended is not None and ended.reason == Reason.UNSCHEDULABLE
    assert "Insufficient nvidia.com/gpu" in (ended.message or "")


def test_an_attempt_in_a_queue_has_no_start_deadline() -> None:
    world = World(job=make_job(queueName="team-a"), ray_jobs={1: ray_job(suspended=True, ray_status="")})
    world.now = after(100_000)
    found = look(world)
    assert (found.status.phase, found.wake_after) == (Phase.QUEUED, None)


def test_silence_ends_an_attempt_as_a_hang() -> None:
    world = running(World())
    world.now = after(1800 + 120)
    ended = look(world).status.attempt
    assert ended is not None and ended.reason == Reason.HANG


def test_a_pod_on_a_lost_node_is_deleted_by_force_after_its_grace() -> None:
    world = running(World())
    lost = pod(number=1, deleting_since=T0, grace_seconds=300)
    world.pods = (pod("head"), pod(), lost)
    world.now = after(300 + 29)
    assert look(world).actions == ()
    world.now = after(300 + 30)
    assert look(world).actions == (ForceDeletePod(lost),)


def test_an_obstacle_is_shown_and_goes_away_by_itself() -> None:
    world = World(obstacle=Obstacle(Reason.RUNTIME_MISSING, "there is no FineTuneRuntime default"))
    found = look(world)
    admitted = found.status.condition(ConditionType.ADMITTED)
    assert admitted is not None and (admitted.status, admitted.reason) == ("False", Reason.RUNTIME_MISSING)
    assert found.actions == ()
    world.obstacle = None
    assert CreateAttempt(1) in look(world).actions


def test_a_finished_job_goes_when_its_time_to_live_is_over() -> None:
    world = running(World(job=make_job(ttlSecondsAfterFinished=60)))
    world.ray_jobs = {1: ray_job(ray_status="SUCCEEDED", deployment="Complete")}
    look(world)
    waiting = look(clear(world))
    assert (waiting.actions, waiting.wake_after) == ((), timedelta(seconds=60))
    world.now = after(60)
    assert look(world).actions == (DeleteJob(),)


def test_steps_after_the_last_commit_are_counted_as_lost() -> None:
    world = running(World(), step=5)
    world.now = after(100)
    found = fail(world, 1)
    assert found.status.attempt is not None and found.status.attempt.steps_lost == 5
    goodput = found.status.goodput
    assert goodput is not None and goodput.lost_to_restarts_worker_seconds == goodput.allocated_worker_seconds == 200
