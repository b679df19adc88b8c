"""A result that comes after the end of its run, or never: the job is complete and says where its model is."""

from __future__ import annotations

from finetune_operator.api.reasons import ConditionType, Phase
from finetune_operator.api.status import JobStatus, OutputStatus
from finetune_operator.policy.decide import decide
from looks import World, heard, pods, ray_job

MODEL = "s3://models/support-bot"


def look(world: World) -> JobStatus:
    """Decide and write the status."""
    found = decide(world.seen()).status
    world.write(found)
    return found


def succeeded() -> World:
    """The driver has ended well; the last that was heard of it is its fifth step."""
    world = World(ray_jobs={1: ray_job()}, pods=pods(), heard=heard(step=5))
    look(world)
    world.ray_jobs = {1: ray_job(ray_status="SUCCEEDED", deployment="Complete")}
    return world


def test_a_run_whose_result_nobody_heard_is_complete_and_says_where_its_model_is() -> None:
    world = succeeded()
    found = look(world)
    complete = found.condition(ConditionType.COMPLETE)
    assert complete is not None
    assert (complete.status, complete.message) == ("True", f"the run is complete; the model is at {MODEL}")
    assert found.output == OutputStatus(uri=MODEL)


def test_a_result_that_is_heard_after_the_end_is_still_written_down() -> None:
    world = succeeded()
    look(world)
    output = OutputStatus(uri=MODEL, verdict="Improved")
    world.heard = heard(1, world.now, 100, output=output, finished=True)
    found = look(world)
    assert (found.output, found.phase) == (output, Phase.SUCCEEDED)
    assert found.progress is not None and found.progress.step == 100
    assert look(world) == found
