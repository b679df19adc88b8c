"""Steps that an attempt threw away: at restarts of its ranks, and at its end; and the account of time that follows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from finetune_operator.api.report import Failure
from finetune_operator.api.status import CheckpointStatus, Goodput, JobStatus, Progress
from finetune_operator.policy.decide import decide
from finetune_operator.story import events_between
from looks import World, after, heard, pods, ray_job


def look(world: World) -> JobStatus:
    found = decide(world.seen()).status
    world.write(found)
    return found


def tells(world: World, step: int, committed: int | None, **more: Any) -> JobStatus:
    """The run reports where it stands."""
    checkpoint = None if committed is None else CheckpointStatus(step=committed, committed_at=world.now)
    world.heard = heard(at=world.now, step=step, checkpoint=checkpoint, **more)
    return look(world)


def restarted() -> World:
    """An attempt that reached step 48, lost 8 steps to a restart, and goes on from the commit at step 40."""
    world = World(ray_jobs={1: ray_job()}, pods=pods())
    tells(world, 48, 40)
    world.now = after(60)
    status = tells(world, 40, 40, restarts=1, steps_lost=8)
    assert status.attempt is not None and (status.attempt.last_step, status.attempt.steps_lost) == (40, 8)
    return world


def ends(world: World, step: int, committed: int) -> JobStatus:
    world.now = after(100)
    world.ray_jobs = {1: ray_job(ray_status="FAILED", deployment="Failed")}
    return tells(world, step, committed, restarts=1, steps_lost=8, failure=Failure(1, "Error", "broken"))


def test_steps_that_a_restart_threw_away_are_lost_while_the_attempt_goes_on() -> None:
    world = restarted()
    status = tells(world, 45, 40, restarts=1, steps_lost=8)
    assert status.attempt is not None and status.attempt.steps_lost == 8


def test_an_attempt_that_ends_right_after_a_restart_has_lost_its_steps_once() -> None:
    status = ends(restarted(), 40, 40)
    assert status.attempt is not None and status.attempt.steps_lost == 8


def test_steps_lost_at_restarts_and_at_the_end_are_one_sum_and_so_is_their_time() -> None:
    status = ends(restarted(), 52, 50)
    assert status.attempt is not None and status.attempt.steps_lost == 10
    # 60 steps in 100 s on two workers: 48, then 12 more from step 40; 50 of them count
    assert status.goodput == Goodput(
        allocated_worker_seconds=200, productive_worker_seconds=167, lost_to_restarts_worker_seconds=33
    )


def test_a_commit_that_is_told_after_the_end_saves_no_step_that_a_restart_threw_away() -> None:
    world = restarted()
    ends(world, 52, 50)
    assert world.heard is not None
    world.heard = replace(world.heard, checkpoint=CheckpointStatus(step=52, committed_at=after(101)))
    status = look(world)
    assert status.attempt is not None and status.attempt.steps_lost == 8
    assert status.goodput is not None and status.goodput.lost_to_restarts_worker_seconds == 26
    assert status.goodput.productive_worker_seconds == 174
    assert look(world) == status


def test_what_was_lost_is_not_forgotten_by_the_next_operator() -> None:
    world = restarted()
    world.heard = None  # the mailbox of a new one is empty
    assert look(world).attempt == world.job.status.attempt
    world.heard = heard(at=after(70), step=47)
    world.ray_jobs = {1: ray_job(ray_status="FAILED", deployment="Failed")}
    ended = look(world).attempt
    assert ended is not None and ended.steps_lost == 15


def test_a_restart_before_any_commit_goes_on_from_nothing() -> None:
    world = World(ray_jobs={1: ray_job()}, pods=pods())
    tells(world, 7, None)
    world.heard = replace(heard(at=after(9), restarts=1, steps_lost=7), progress=Progress(step=0))
    world.ray_jobs = {1: ray_job(ray_status="FAILED", deployment="Failed")}
    ended = look(world).attempt
    assert ended is not None and ended.steps_lost == 7


def test_a_damaged_commit_costs_the_attempt_before_the_steps_that_it_had_saved() -> None:
    world = World(ray_jobs={1: ray_job()}, pods=pods())
    tells(world, 48, 40)
    world.now = after(96)
    world.ray_jobs = {1: ray_job(ray_status="FAILED", deployment="Failed")}
    tells(world, 48, 40, failure=Failure(1, "Error", "broken"))
    assert world.job.status.goodput == Goodput(
        allocated_worker_seconds=192, productive_worker_seconds=160, lost_to_restarts_worker_seconds=32
    )
    world.now, world.ray_jobs, world.pods = after(200), {2: ray_job(2)}, pods(2)
    resumed = heard(2, at=world.now, step=30, checkpoint=CheckpointStatus(step=30))
    world.heard = resumed
    status = look(world)
    first, second = status.attempts
    assert (first.steps_lost, second.first_step, second.last_step) == (18, 30, 30)
    assert status.checkpoint is not None
    assert (status.checkpoint.step, status.checkpoint.committed_at) == (30, after(96))
    assert status.goodput == Goodput(
        allocated_worker_seconds=192, productive_worker_seconds=120, lost_to_restarts_worker_seconds=72
    )
    assert look(world) == status
    world.heard = replace(resumed, progress=Progress(step=35), failure=Failure(1, "Error", "broken"))
    world.ray_jobs = {2: ray_job(2, ray_status="FAILED", deployment="Failed")}
    ended = look(world).attempt
    assert ended is not None and ended.steps_lost == 5


def test_no_commit_is_told_where_one_was_given_up() -> None:
    older, newer = JobStatus(checkpoint=CheckpointStatus(step=40)), JobStatus(checkpoint=CheckpointStatus(step=30))
    assert events_between(older, newer) == []
    assert [event.note for event in events_between(newer, older)] == ["committed a checkpoint at step 40"]
