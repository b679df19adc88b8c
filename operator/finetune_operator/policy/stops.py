"""Graceful stops: asked for in the answers to the run's reports, over with its commit or by the deadline."""

from __future__ import annotations

from datetime import timedelta

from finetune_operator.api.attempt import AttemptStatus
from finetune_operator.api.grace import grace_seconds
from finetune_operator.api.reasons import ConditionType, Reason
from finetune_operator.api.status import StopRequest
from finetune_operator.policy.attempts import finish
from finetune_operator.policy.classify import End
from finetune_operator.policy.draft import Draft
from finetune_trainer.spec.job import GRACE

WORDS = {
    Reason.SUSPENDED: "the job is suspended",
    Reason.DELETED: "the job is deleted",
    Reason.ACTIVE_DEADLINE: "spec.activeDeadlineSeconds is over",
}


def stop(draft: Draft, attempt: AttemptStatus, reason: Reason) -> None:
    """Ask the live attempt to stop, and end it once its deadline is over; one that never ran has nothing to commit.

    A stop that was asked for already stands, with its reason.
    """
    grace = _grace(draft, attempt)
    asked = draft.status.stop
    if asked is None or asked.attempt != attempt.number:
        deadline = draft.seen.now + timedelta(seconds=grace)
        asked = StopRequest(reason=reason, attempt=attempt.number, deadline=deadline)
        draft.update(stop=asked)
    why = WORDS.get(asked.reason, asked.reason)
    if attempt.running_at is None:
        finish(draft, End("Stopped", asked.reason, f"{why}; nothing had been trained yet"))
    elif draft.seen.now >= asked.deadline:
        text = f"{why}; no commit within {grace} s (spec.terminationGracePeriodSeconds)"
        finish(draft, End("Stopped", asked.reason, text))
    else:
        draft.condition(ConditionType.TRAINING, True, Reason.STOPPING, f"{why}: waits for a commit")
        draft.wake_at(asked.deadline)


def _grace(draft: Draft, attempt: AttemptStatus) -> int:
    """Seconds for a stop that the operator asks for, which no pod limits: by what is measured now."""
    asked = draft.seen.job.manifest.spec.termination_grace_period_seconds or attempt.grace_seconds or GRACE
    return grace_seconds(asked, draft.status.checkpoint)
