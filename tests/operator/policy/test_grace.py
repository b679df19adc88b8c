"""How long a stop may take: as asked at first, then as long as commits were seen to need, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from finetune_operator.api.grace import LONGEST, grace_seconds, stop_seconds
from finetune_operator.api.reasons import ConditionType, Reason
from finetune_operator.api.status import CheckpointStatus, Condition, JobStatus
from finetune_operator.policy.decide import decide
from finetune_operator.story import events_between
from looks import T0, World, heard, make_job, pods, ray_job


def commit(seconds: int, step_seconds: int = 0) -> CheckpointStatus:
    return CheckpointStatus(step=40, committed_at=T0, bytes=2**40, seconds=seconds, step_seconds=step_seconds)


@pytest.mark.parametrize(
    ("asked", "measured", "grace"),
    [
        (300, None, 300),
        (300, CheckpointStatus(step=40), 300),  # by a run that does not tell what its commits take
        (300, commit(20), 300),
        (300, commit(340, 20), 1400),
        (30, commit(100), 400),
        (300, commit(5000), LONGEST),
        (7200, commit(5000), 7200),
    ],
)
def test_what_was_asked_for_holds_until_a_commit_is_seen_to_need_more(
    asked: int, measured: CheckpointStatus | None, grace: int
) -> None:
    assert grace_seconds(asked, measured) == grace


def test_a_stop_waits_for_the_step_that_runs_and_for_the_commit_before_its_own() -> None:
    assert stop_seconds(commit(340, 20)) == 700


def look(world: World) -> JobStatus:
    found = decide(world.seen()).status
    world.write(found)
    return found


def training(seconds: int, grace: int | None = 300, **spec: Any) -> World:
    """A job whose first attempt, with this grace, has told of a commit that took so long."""
    world = World(job=make_job(**spec), ray_jobs={1: ray_job(grace_seconds=grace)}, pods=pods(), heard=heard(step=40))
    look(world)
    assert world.heard is not None
    world.heard = replace(world.heard, checkpoint=commit(seconds, 20))
    return world


def freshness(status: JobStatus) -> Condition:
    found = status.condition(ConditionType.CHECKPOINT_FRESH)
    assert found is not None
    return found


def test_a_commit_that_would_not_fit_into_a_stop_is_a_warning_until_one_does() -> None:
    world = training(141)
    before = world.job.status
    after = look(world)
    said = freshness(after)
    assert (said.status, said.reason) == ("True", Reason.COMMIT_EXCEEDS_GRACE)
    for part in ("141 s", "302 s", "300", "terminationGracePeriodSeconds", "604"):
        assert part in said.message
    (warning,) = [event for event in events_between(before, after) if event.kind == "Warning"]
    assert (warning.reason, warning.note) == (Reason.COMMIT_EXCEEDS_GRACE, said.message)
    assert events_between(after, look(world)) == []
    assert world.heard is not None
    world.heard = replace(world.heard, checkpoint=commit(140, 20))
    assert freshness(look(world)).reason == Reason.COMMITTED


def test_a_commit_that_is_too_slow_for_any_grace_but_an_asked_one_says_what_to_ask_for() -> None:
    said = freshness(look(training(4000)))
    assert said.reason == Reason.COMMIT_EXCEEDS_GRACE and "set it to 16040" in said.message


def test_nothing_is_said_of_an_attempt_whose_grace_is_not_known() -> None:
    assert freshness(look(training(4000, grace=None))).reason == Reason.COMMITTED


@pytest.mark.parametrize(
    ("seconds", "spec", "grace"),
    [(10, {}, 300), (10, {"terminationGracePeriodSeconds": 900}, 900), (480, {}, 1960)],
)
def test_a_stop_that_the_operator_asks_for_has_the_time_that_the_newest_commit_took(
    seconds: int, spec: dict[str, Any], grace: int
) -> None:
    world = training(seconds, **spec)
    world.change(suspend=True)
    stop = look(world).stop
    assert stop is not None and stop.deadline - world.now == timedelta(seconds=grace)


def test_an_attempt_of_an_older_operator_is_stopped_as_before() -> None:
    world = training(10, grace=None)
    world.change(suspend=True)
    stop = look(world).stop
    assert stop is not None and stop.deadline - world.now == timedelta(seconds=300)


def test_the_grace_of_an_attempt_stands_in_the_status() -> None:
    attempt = look(training(10, grace=450)).attempt
    assert attempt is not None and attempt.grace_seconds == 450
