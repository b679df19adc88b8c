"""The events of a job: each thing that happened is told once."""

from __future__ import annotations

from finetune_operator.policy.decide import decide
from finetune_operator.story import events_between
from looks import World, pods, ray_job


def tell(world: World) -> list[tuple[str, str]]:
    """Reason and sentence of each event of one reconcile, whose status is written."""
    before, now = world.job.status, decide(world.seen()).status
    world.write(now)
    return [(str(event.reason), event.note) for event in events_between(before, now)]


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
