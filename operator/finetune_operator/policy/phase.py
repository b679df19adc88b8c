"""The one word for people, and how old the newest commit is: derived, never decided by."""

from __future__ import annotations

from datetime import timedelta

from finetune_operator.api.reasons import ConditionType, Phase, Reason
from finetune_operator.policy.draft import Draft

WAITING = (Reason.QUEUED, Reason.RUN_LIMIT_REACHED)
STALE_AFTER = 3
"""Intervals between commits after which the newest one is called stale."""


def phase_of(draft: Draft) -> Phase:
    """The phase that follows from the conditions, and from what was asked for and is not over yet."""
    status, job = draft.status, draft.seen.job
    if status.holds(ConditionType.COMPLETE):
        return Phase.SUCCEEDED
    if status.holds(ConditionType.FAILED):
        return Phase.FAILED
    if status.holds(ConditionType.SUSPENDED):
        return Phase.SUSPENDED
    training, unwanted = status.condition(ConditionType.TRAINING), job.deleted is not None or job.manifest.spec.suspend
    if training is not None and (unwanted or training.reason == Reason.STOPPING):
        return Phase.STOPPING
    if status.holds(ConditionType.TRAINING):
        return Phase.TRAINING
    admitted = status.condition(ConditionType.ADMITTED)
    if admitted is not None and admitted.reason in WAITING:
        return Phase.QUEUED
    attempt = status.attempt
    if attempt is None:
        return Phase.PENDING
    return Phase.RESTARTING if attempt.number > 1 or attempt.finished_at is not None else Phase.STARTING


def checkpoint_freshness(draft: Draft) -> None:
    """The condition CheckpointFresh: whether the newest commit is as young as the manifest's interval promises."""
    found, spec = draft.status.checkpoint, draft.seen.job.manifest.spec.checkpoint
    if found is None or found.committed_at is None:
        if draft.status.attempts:
            draft.condition(ConditionType.CHECKPOINT_FRESH, False, Reason.NONE_YET)
        return
    message = f"step {found.step} was committed"
    if spec.every_seconds is None or draft.live is None:
        draft.condition(ConditionType.CHECKPOINT_FRESH, True, Reason.COMMITTED, message)
        return
    due = found.committed_at + timedelta(seconds=STALE_AFTER * spec.every_seconds)
    if draft.seen.now < due:
        draft.condition(ConditionType.CHECKPOINT_FRESH, True, Reason.COMMITTED, message)
        draft.wake_at(due)
    else:
        draft.condition(ConditionType.CHECKPOINT_FRESH, False, Reason.STALE, f"{message} {found.committed_at:%H:%M:%S}")
