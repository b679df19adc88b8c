"""Where the logs of an attempt are stands in the status from its beginning, and stays there when it failed."""

from __future__ import annotations

from finetune_operator.api.reasons import Phase
from finetune_operator.policy.decide import decide
from finetune_trainer.spec import logs_uri, parse_job
from looks import UID, World, pods, ray_job
from rendering import render


def logs(world: World) -> list[str | None]:
    """Decide, write the status, and say where the logs of each attempt are."""
    world.write(decide(world.seen()).status)
    return [attempt.logs for attempt in world.job.status.attempts]


def test_each_attempt_has_its_own_logs_from_its_beginning() -> None:
    world = World(ray_jobs={1: ray_job(ray_status="", deployment="")})
    first, second = (f"s3://ckpt/support-bot/{UID}/logs/{number}" for number in (1, 2))
    assert logs(world) == [first]
    world.ray_jobs, world.pods = {1: ray_job(ray_status="FAILED", deployment="Failed")}, pods()
    assert logs(world) == [first]
    world.ray_jobs, world.pods = {2: ray_job(2)}, ()
    assert logs(world) == [first, second]


def test_a_job_that_failed_says_where_its_logs_are() -> None:
    world = World(ray_jobs={1: ray_job()}, pods=pods())
    world.change(failurePolicy={"maxAttempts": 1})
    logs(world)
    world.ray_jobs = {1: ray_job(ray_status="FAILED", deployment="Failed")}
    assert logs(world) == [f"s3://ckpt/support-bot/{UID}/logs/1"]
    assert world.job.status.phase == Phase.FAILED


def test_they_are_where_the_run_puts_them() -> None:
    read = parse_job(render(World().job)["ConfigMap"]["data"]["job.json"])
    world = World(ray_jobs={1: ray_job()})
    assert logs(world) == [f"{logs_uri(read)}/1"]
