"""How often a job is tried again: a budget for each class of failure, and growing pauses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from finetune_operator.api.attempt import AttemptStatus
from finetune_operator.api.reasons import Reason
from finetune_trainer.spec.cluster import FailurePolicy

NEVER = frozenset({Reason.USER_ERROR, Reason.BAD_DATA, Reason.VALIDATION, Reason.DEVICE_OUT_OF_MEMORY})
"""What the same manifest brings about again; a rule may still give `DeviceOutOfMemory` a budget."""

OWN = {Reason.PREEMPTED: 20, Reason.EVICTED: 20, Reason.NODE_LOST: 20}
"""Retries of classes that say nothing of the job; they do not count against `maxAttempts`."""

FIRST_PAUSE = timedelta(seconds=10)
LONGEST_PAUSE = timedelta(minutes=6)
"""Pauses double from the first to the longest, as those of a Kubernetes Job do."""


@dataclass(frozen=True)
class Verdict:
    """Whether another attempt may start; `message` says which budget allows or forbids it."""

    retry: bool
    message: str


def verdict(policy: FailurePolicy, failures: Mapping[Reason, int], reason: Reason) -> Verdict:
    """Judge after an attempt that failed for `reason`; `failures` counts all failed attempts, this one included."""
    own = _own_budget(policy, reason)
    if own is not None:
        count = failures.get(reason, 0) if isinstance(own, int) else sum(failures.get(one, 0) for one in own.reasons)
        limit = own if isinstance(own, int) else own.retries
        return Verdict(count <= limit, f"retry {min(count, limit)} of {limit} for {reason}")
    if reason in NEVER:
        return Verdict(False, f"{reason} is not retried: the same manifest would bring it about again")
    shared = sum(count for one, count in failures.items() if _own_budget(policy, one) is None)
    used = f"{min(shared, policy.max_attempts)} of {policy.max_attempts} attempts (spec.failurePolicy.maxAttempts) used"
    return Verdict(shared < policy.max_attempts, used)


@dataclass(frozen=True)
class _Rule:
    reasons: frozenset[Reason]
    retries: int


def _own_budget(policy: FailurePolicy, reason: Reason) -> _Rule | int | None:
    """The first rule of the manifest that names the reason, else the default for its class."""
    for rule in policy.rules:
        if reason.value in {one.value for one in rule.reasons}:
            return _Rule(frozenset(Reason(one.value) for one in rule.reasons), rule.max_retries)
    return OWN.get(reason)


def pause(attempts: Sequence[AttemptStatus]) -> timedelta:
    """How long to wait after the newest attempt: longer for each failed one in a row that made no step.

    One that trained until it was taken away is followed at once: it would do so again.
    """
    if attempts and attempts[-1].reason in OWN and _trained(attempts[-1]):
        return timedelta(0)
    failed = 0
    for attempt in reversed(attempts):
        if attempt.outcome != "Failed":
            break
        failed += 1
        if _trained(attempt):
            break
    return min(FIRST_PAUSE * 2 ** min(failed - 1, 10), LONGEST_PAUSE) if failed else timedelta(0)


def _trained(attempt: AttemptStatus) -> bool:
    return (attempt.last_step or 0) > (attempt.first_step or 0)
