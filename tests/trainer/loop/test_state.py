"""What the loop decides from its own state."""

from __future__ import annotations

import math

import pytest

from finetune_trainer.spec import Checkpoint, EarlyStopping, Evaluation
from finetune_trainer.state import Best, Progress, commit_due, evaluation_due, out_of_patience

EVALUATION = Evaluation(every_steps=10, compare_base=True, early_stopping=EarlyStopping(patience=2))
CHECKPOINT = Checkpoint(uri="file:///checkpoints", every_steps=20, keep_best=1)


def test_the_base_model_is_evaluated_once_before_the_first_step() -> None:
    fresh = Progress()
    assert evaluation_due(fresh, EVALUATION, has_sets=True)
    assert not evaluation_due(fresh.with_base({"held-out": 2.0}, 2.0), EVALUATION, has_sets=True)
    assert not evaluation_due(fresh, Evaluation(every_steps=10, compare_base=False), has_sets=True)


def test_evaluation_falls_on_every_tenth_step_and_only_once() -> None:
    assert not evaluation_due(Progress(step=19), EVALUATION, has_sets=True)
    assert evaluation_due(Progress(step=20), EVALUATION, has_sets=True)
    assert not evaluation_due(Progress(step=20).evaluated(1.0), EVALUATION, has_sets=True)
    assert not evaluation_due(Progress(step=20), EVALUATION, has_sets=False)


def test_the_best_loss_is_kept_and_evaluations_since_are_counted() -> None:
    state = Progress(step=10).evaluated(2.0)
    assert state.best == Best(step=10, loss=2.0)
    worse = state.model_copy(update={"step": 20}).evaluated(2.5)
    assert (worse.best, worse.stale) == (Best(step=10, loss=2.0), 1)
    better = worse.model_copy(update={"step": 30}).evaluated(1.5)
    assert (better.best, better.stale) == (Best(step=30, loss=1.5), 0)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_held_out_loss_that_is_not_finite_is_no_best_and_can_be_beaten(loss: float) -> None:
    state = Progress(step=10).evaluated(loss)
    assert (state.best, state.last_eval, state.last_eval_step, state.stale) == (None, None, 10, 1)
    better = state.model_copy(update={"step": 20}).evaluated(2.0)
    assert (better.best, better.stale) == (Best(step=20, loss=2.0), 0)
    assert better.model_copy(update={"step": 30}).evaluated(loss).best == better.best
    based = Progress().with_base({"a": loss, "b": 1.0}, loss)
    assert (based.base, based.base_mean) == ({"a": None, "b": 1.0}, None)


def test_patience_ends_after_that_many_evaluations_without_a_new_best() -> None:
    state = Progress(step=10).evaluated(2.0)
    for step in (20, 30):
        assert not out_of_patience(state, EVALUATION)
        state = state.model_copy(update={"step": step}).evaluated(3.0)
    assert out_of_patience(state, EVALUATION)
    assert not out_of_patience(state, None)


def test_a_commit_is_due_by_steps_or_as_the_best_so_far() -> None:
    assert commit_due(Progress(step=40), CHECKPOINT, improved=False)
    assert not commit_due(Progress(step=41), CHECKPOINT, improved=False)
    assert commit_due(Progress(step=41), CHECKPOINT, improved=True)
    assert not commit_due(Progress(step=41), CHECKPOINT.model_copy(update={"keep_best": 0}), improved=True)


def test_the_state_survives_the_trip_through_json() -> None:
    state = Progress(step=3, loss=1.25).evaluated(2.0)
    assert Progress.model_validate_json(state.model_dump_json()) == state
