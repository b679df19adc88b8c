"""Stops that something else gets into the way of, and commits that are told after the end."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from finetune_operator.api.reasons import ConditionType, Phase, Reason
from finetune_operator.api.report import Failure
from finetune_operator.api.status import CheckpointStatus, JobStatus
from finetune_operator.policy.actions import CreateAttempt, DeleteRayJob
from finetune_operator.policy.decide import decide
from looks import World, after, heard, make_job, pods, ray_job


def look(world: World) -> JobStatus:
    """Decide and write the status."""
    found = decide(world.seen()).status
    world.write(found)
    return found


def training(**spec: Any) -> World:
    """A job whose first attempt has reported."""
    world = World(job=make_job(**spec), ray_jobs={1: ray_job()}, pods=pods(), heard=heard(step=50))
    look(world)
    return world


def test_no_attempt_follows_when_the_total_time_is_used_up() -> None:
    world = training(activeDeadlineSeconds=60)
    world.now = after(61)
    look(world)
    head, *workers = pods()
    world.pods = (replace(head, phase="Failed", ready=False, disruption="DeletionByTaintManager"), *workers)
    ended = look(world).attempt
    assert ended is not None and (ended.outcome, ended.reason) == ("Failed", Reason.NODE_LOST)
    found = decide(world.seen())
    failed = found.status.condition(ConditionType.FAILED)
    assert (
        failed is not None and failed.reason == Reason.ACTIVE_DEADLINE and "attempt 1: pod head-1-0" in failed.message
    )
    assert [type(action) for action in found.actions] == [DeleteRayJob]
    world.write(found.status)
    world.ray_jobs, world.pods, world.now = {}, (), after(1000)
    assert not any(isinstance(action, CreateAttempt) for action in decide(world.seen()).actions)


def test_a_stop_for_the_total_time_stays_one_when_the_job_is_suspended() -> None:
    world = training(activeDeadlineSeconds=60)
    world.now = after(61)
    look(world)
    world.change(suspend=True)
    world.now = after(400)
    look(world)
    status = look(world)
    failed = status.condition(ConditionType.FAILED)
    assert status.phase == Phase.FAILED
    assert failed is not None and failed.reason == Reason.ACTIVE_DEADLINE
    assert "spec.activeDeadlineSeconds is over; no commit within 300 s" in failed.message


def test_a_commit_that_is_told_after_the_end_saves_its_steps() -> None:
    world = training()
    world.now = after(100)
    world.heard = heard(at=after(100), step=50, failure=Failure(1, "Error", "broken"))
    world.ray_jobs = {1: ray_job(ray_status="FAILED", deployment="Failed")}
    before = look(world)
    assert before.attempt is not None and before.attempt.steps_lost == 50
    world.heard = replace(world.heard, checkpoint=CheckpointStatus(step=40, committed_at=after(101)))
    status = look(world)
    assert status.attempt is not None and status.attempt.steps_lost == 10
    assert status.goodput is not None and before.goodput is not None
    assert before.goodput.lost_to_restarts_worker_seconds == 200  # two workers for 100 s
    assert status.goodput.lost_to_restarts_worker_seconds == 40
    assert status.goodput.productive_worker_seconds == 160
    assert look(world) == status


def test_attempts_that_stop_by_themselves_are_limited_and_pause_in_between() -> None:
    world, pauses = World(), list[timedelta | None]()
    while look(world).phase != Phase.FAILED:
        number = len(pauses) + 1
        world.ray_jobs, world.pods = {number: ray_job(number)}, pods(number)
        look(world)
        world.heard = heard(number, step=0, at=world.now, failure=Failure(15, "Stopped", "stopped"))
        world.ray_jobs = {number: ray_job(number, ray_status="FAILED", deployment="Failed")}
        look(world)
        world.ray_jobs, world.pods = {}, ()
        pauses.append(decide(world.seen()).wake_after)
        world.now += timedelta(hours=1)
    assert pauses == [timedelta(seconds=10), timedelta(seconds=20), None]
