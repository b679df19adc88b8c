"""Retries: a budget for each class, growing pauses."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from finetune_operator.api.attempt import AttemptStatus
from finetune_operator.api.reasons import FAILURES, Reason
from finetune_operator.policy.budget import FIRST_PAUSE, LONGEST_PAUSE, NEVER, OWN, pause, verdict
from finetune_trainer.spec.cluster import FailurePolicy
from looks import T0


def policy(text: str = "{}") -> FailurePolicy:
    return FailurePolicy.model_validate_json(text)


def failed(
    number: int, first_step: int = 0, last_step: int | None = None, reason: Reason = Reason.ERROR
) -> AttemptStatus:
    times: dict[str, Any] = {"started_at": T0, "finished_at": T0, "first_step": first_step, "last_step": last_step}
    return AttemptStatus(number=number, ray_job=f"x-{number}", outcome="Failed", reason=reason, **times)


@pytest.mark.parametrize("reason", sorted(NEVER))
def test_what_the_manifest_brings_about_again_is_never_retried(reason: Reason) -> None:
    judged = verdict(policy('{"maxAttempts": 1000}'), {reason: 1}, reason)
    assert not judged.retry
    assert reason in judged.message


@pytest.mark.parametrize("reason", [one for one in FAILURES if one not in NEVER and one not in OWN])
def test_other_classes_share_the_attempts(reason: Reason) -> None:
    assert [verdict(policy('{"maxAttempts": 3}'), {reason: n}, reason).retry for n in (1, 2, 3)] == [True, True, False]
    other = Reason.HANG if reason is not Reason.HANG else Reason.ERROR
    assert not verdict(policy('{"maxAttempts": 3}'), {reason: 1, other: 2}, reason).retry


@pytest.mark.parametrize(("reason", "budget"), sorted(OWN.items()))
def test_what_says_nothing_of_the_job_has_a_budget_of_its_own(reason: Reason, budget: int) -> None:
    assert verdict(policy('{"maxAttempts": 1}'), {reason: budget}, reason).retry
    assert not verdict(policy('{"maxAttempts": 1}'), {reason: budget + 1}, reason).retry


def test_a_rule_gives_its_reasons_one_budget_together() -> None:
    ruled = policy('{"maxAttempts": 2, "rules": [{"reasons": ["Storage", "DeviceOutOfMemory"], "maxRetries": 2}]}')
    assert verdict(ruled, {Reason.STORAGE: 1, Reason.DEVICE_OUT_OF_MEMORY: 1}, Reason.DEVICE_OUT_OF_MEMORY).retry
    assert not verdict(ruled, {Reason.STORAGE: 2, Reason.DEVICE_OUT_OF_MEMORY: 1}, Reason.STORAGE).retry
    assert verdict(ruled, {Reason.STORAGE: 2, Reason.ERROR: 1}, Reason.ERROR).retry  # not charged to the attempts


def test_pauses_double_up_to_the_longest() -> None:
    pauses = [pause([failed(k) for k in range(1, n + 1)]) for n in range(8)]
    assert pauses[:4] == [timedelta(0), FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses[-1] == LONGEST_PAUSE


def test_an_attempt_that_made_steps_makes_the_pauses_short_again() -> None:
    assert pause([failed(1), failed(2), failed(3, first_step=10, last_step=20)]) == FIRST_PAUSE


@pytest.mark.parametrize("reason", OWN)
def test_an_attempt_that_trained_until_it_was_taken_away_is_followed_at_once(reason: Reason) -> None:
    assert pause([failed(1, first_step=10, last_step=20, reason=reason)]) == timedelta(0)
    assert pause([failed(1, first_step=10, last_step=10, reason=reason)]) == FIRST_PAUSE
