"""The events of a job: each thing that happened is told once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from finetune_operator.api.reasons import Reason
from finetune_operator.api.report import Failure
from finetune_operator.api.status import CheckpointStatus, DamagedCheckpoint
from finetune_operator.policy.decide import decide
from finetune_operator.policy.seen import Obstacle
from finetune_operator.story import Event, events_between
from looks import World, after, heard, pod, pods, ray_job


def events(world: World) -> list[Event]:
    """The events of one reconcile, whose status is written."""
    before, now = world.job.status, decide(world.seen()).status
    world.write(now)
    return events_between(before, now)


def tell(world: World) -> list[tuple[str, str]]:
    """Reason and sentence of each event of one reconcile."""
    return [(str(event.reason), event.note) for event in events(world)]


def test_the_start_of_an_attempt_is_one_event() -> None:
    world = World(ray_jobs={1: ray_job(ray_status="", deployment="")})
    assert tell(world) == [("Starting", "attempt 1: created RayJob support-bot-abcde-1")]
    assert tell(world) == []


def test_a_cluster_that_is_up_is_told_after_its_attempt() -> None:
    world = World(ray_jobs={1: ray_job(ray_status="", deployment="")})
    tell(world)
    world.pods = pods()
    assert tell(world) == [("Ready", "head and 2 workers are ready")]


def test_an_attempt_that_waits_in_a_queue_says_so_and_when_it_is_let_in() -> None:
    world = World(ray_jobs={1: ray_job(ray_status="", deployment="", suspended=True, queue="team-a")})
    assert [reason for reason, _ in tell(world)] == ["Starting", "Queued"]
    world.ray_jobs = {1: ray_job(ray_status="", deployment="", queue="team-a")}
    assert tell(world) == [("Admitted", "attempt 1 was admitted by queue team-a")]


def test_a_damaged_checkpoint_is_told_once_with_what_is_wrong() -> None:
    damaged = CheckpointStatus(step=20, damaged=DamagedCheckpoint(step=40, message="data/1: expected 12, found 13"))
    world = World(ray_jobs={1: ray_job()}, pods=pods(), heard=heard())
    tell(world)
    world.heard = replace(heard(), checkpoint=damaged)
    (warning,) = [event for event in events(world) if event.kind == "Warning"]
    assert warning.reason == Reason.CHECKPOINT_DAMAGED
    assert "step 40" in warning.note and "data/1: expected 12, found 13" in warning.note
    assert tell(world) == []


def test_the_end_of_an_attempt_is_told_once() -> None:
    world = World(ray_jobs={1: ray_job()}, pods=pods(), heard=heard())
    tell(world)
    world.heard = heard(at=after(5), failure=Failure(10, "UserError", "no such object"))
    world.ray_jobs = {1: ray_job(ray_status="FAILED", deployment="Failed")}
    assert [(event.kind, event.note.split(":")[0]) for event in events(world)] == [
        ("Warning", "attempt 1 ended"),
        ("Warning", "the job failed"),
    ]


@pytest.mark.parametrize(
    ("stuck", "reason"),
    [
        ({"waiting": ("ErrImagePull", "no such image")}, Reason.IMAGE_PULL),
        ({"waiting": ("CreateContainerConfigError", 'secret "s3" not found')}, Reason.CONTAINERS_NOT_READY),
        ({"unschedulable": "0/2 nodes are available"}, Reason.UNSCHEDULABLE),
    ],
)
def test_a_wait_that_somebody_must_end_is_a_warning(stuck: dict[str, Any], reason: Reason) -> None:
    world = World(ray_jobs={1: ray_job(ray_status="")}, pods=(pod("head", ready=False, phase="Pending", **stuck),))
    assert ("Warning", reason) in [(event.kind, event.reason) for event in events(world)]


def test_a_wait_for_its_turn_is_none() -> None:
    world = World(obstacle=Obstacle(Reason.RUN_LIMIT_REACHED, "2 jobs run", 0))
    assert [(event.kind, event.reason) for event in events(world)] == [("Normal", Reason.RUN_LIMIT_REACHED)]
