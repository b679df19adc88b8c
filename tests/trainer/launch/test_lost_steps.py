"""What restarts of the ranks throw away, from the events of the ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_trainer.launch.lost_steps import LostSteps

RESTART = {"kind": "restart", "restarts": 1, "maxRestarts": 5, "reason": "Killed", "message": "killed"}


def step(number: int) -> dict[str, Any]:
    return {"kind": "progress", "step": number}


def commit(number: int) -> dict[str, Any]:
    return {"kind": "checkpoint", "step": number, "uri": "s3://ckpt/x"}


def resuming(number: int) -> dict[str, Any]:
    return {"kind": "phase", "name": "resuming", "step": number}


def told(*events: Mapping[str, Any]) -> list[tuple[object, object]]:
    """Where restarts go on and what was lost until then, of the events that say so."""
    account = LostSteps()
    noted = [account.note(event) for event in events]
    assert [one["kind"] for one in noted] == [one["kind"] for one in events]
    return [(one["step"], one["stepsLost"]) for one in noted if "stepsLost" in one]


def test_a_restart_loses_the_steps_after_the_newest_commit() -> None:
    assert told(step(40), commit(40), step(48), RESTART, resuming(40)) == [(40, 8), (40, 8)]


def test_all_restarts_of_a_launch_are_counted_together() -> None:
    first = (step(40), commit(40), step(48), RESTART, resuming(40))
    again = (step(41), commit(41), step(44), RESTART, resuming(41))
    assert told(*first, *again) == [(40, 8), (40, 8), (41, 11), (41, 11)]


def test_a_restart_without_a_commit_loses_everything_and_begins_anew() -> None:
    assert told(step(1), step(7), RESTART, step(1), RESTART) == [(0, 7), (0, 8)]


def test_a_run_that_dies_again_before_its_first_step_loses_nothing_more() -> None:
    assert told(step(40), commit(40), step(48), RESTART, RESTART) == [(40, 8), (40, 8)]


def test_a_damaged_commit_costs_the_steps_that_it_had_saved() -> None:
    assert told(step(40), commit(40), step(48), RESTART, resuming(30)) == [(40, 8), (30, 18)]


def test_a_commit_that_was_never_told_saves_its_steps() -> None:
    assert told(step(40), commit(40), step(48), RESTART, resuming(45)) == [(40, 8), (45, 3)]


def test_an_attempt_that_goes_on_from_a_commit_has_lost_nothing_yet() -> None:
    assert told(resuming(40), step(41)) == []
    assert told(resuming(40), step(43), RESTART) == [(40, 3)]


def test_where_a_restart_goes_on_is_not_made_up() -> None:
    assert told({"kind": "phase", "name": "indexing the data"}, RESTART) == []
