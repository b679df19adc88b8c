"""Nodes that attempts ended on: two ends on one, and the next attempt keeps off it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from finetune_operator.api.attempt import AttemptStatus, repeat_offenders
from finetune_operator.api.reasons import ConditionType, Reason
from finetune_operator.api.status import JobStatus
from finetune_operator.policy.decide import decide
from finetune_operator.story import events_between
from looks import T0, World, heard, make_job, pod, pods, ray_job


def attempt(number: int, node: str | None, reason: Reason = Reason.NODE_LOST, *avoided: str) -> AttemptStatus:
    return AttemptStatus(
        number=number, ray_job=f"b-{number}", started_at=T0, node=node, reason=reason, avoided_nodes=avoided
    )


def test_one_end_on_a_node_may_happen_and_two_are_its_fault() -> None:
    assert repeat_offenders([attempt(1, "a")]) == ()
    assert repeat_offenders([attempt(1, "a"), attempt(2, "b"), attempt(3, None)]) == ()
    assert repeat_offenders([attempt(1, "a"), attempt(2, "b"), attempt(3, "a")]) == ("a",)
    assert repeat_offenders([attempt(number, node) for number, node in enumerate("babab", 1)]) == ("a", "b")


@pytest.mark.parametrize("reason", [Reason.UNSCHEDULABLE, Reason.START_DEADLINE])
def test_a_node_is_forgiven_when_the_job_finds_no_room_without_it(reason: Reason) -> None:
    twice = [attempt(1, "a"), attempt(2, "a")]
    assert repeat_offenders([*twice, attempt(3, None, reason)]) == ("a",)
    assert repeat_offenders([*twice, attempt(3, None, reason, "a")]) == ()
    assert repeat_offenders([*twice, attempt(3, None, reason, "a"), attempt(4, "a"), attempt(5, "a")]) == ("a",)


def look(world: World) -> JobStatus:
    found = decide(world.seen()).status
    world.write(found)
    return found


def loses_its_head(world: World, number: int, node: str) -> None:
    """An attempt whose head ends on a node that is lost, up to the moment at which the next one may begin."""
    world.ray_jobs, world.pods, world.heard = {number: ray_job(number)}, pods(number), heard(number, at=world.now)
    look(world)
    head = pod("head", number, phase="Failed", ready=False, disruption="DeletionByPodGC", node=node)
    world.pods = (head, *world.pods[1:])
    look(world)
    world.ray_jobs, world.pods = {}, ()
    world.now += timedelta(minutes=10)


def test_an_attempt_after_two_ends_on_a_node_says_that_it_keeps_off_it() -> None:
    world = World(job=make_job())
    loses_its_head(world, 1, "node-7")
    loses_its_head(world, 2, "node-7")
    before = world.job.status
    assert [one.node for one in before.attempts] == ["node-7", "node-7"]
    assert before.offenders == ("node-7",)
    world.ray_jobs = {3: ray_job(3)}
    after = look(world)
    assert after.attempt is not None and after.attempt.avoided_nodes == ("node-7",)
    admitted = after.condition(ConditionType.ADMITTED)
    assert admitted is not None and "2 attempts ended on node-7" in admitted.message
    (created,) = [event.note for event in events_between(before, after) if event.reason == Reason.STARTING]
    assert "keep off node-7" in created


def test_a_head_that_ended_by_itself_on_a_node_counts_and_an_evicted_or_a_greedy_one_does_not() -> None:
    for fate, node in (
        ({"ended": (1, "Error")}, "node-7"),
        ({"ended": (137, "OOMKilled")}, None),
        ({"disruption": "EvictionByEvictionAPI"}, None),
        ({"reason": "Evicted", "message": "low on memory"}, None),
    ):
        world = World(ray_jobs={1: ray_job()}, pods=pods(), heard=heard())
        look(world)
        world.pods = (pod("head", phase="Failed", ready=False, node="node-7", **fate), *pods()[1:])
        ended = look(world).attempt
        assert ended is not None and ended.finished_at is not None and ended.node == node, fate
