"""The one word for people, and how old the newest commit is: derived, never decided by."""

from __future__ import annotations

from datetime import timedelta

from finetune_operator.api.grace import grace_seconds, stop_seconds
from finetune_operator.api.reasons import ConditionType, Phase, Reason
from finetune_operator.api.status import CheckpointStatus
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
    reason, message = _commit(draft, found)
    if spec.every_seconds is None or draft.live is None:
        draft.condition(ConditionType.CHECKPOINT_FRESH, True, reason, message)
        return
    due = found.committed_at + timedelta(seconds=STALE_AFTER * spec.every_seconds)
    if draft.seen.now < due:
        draft.condition(ConditionType.CHECKPOINT_FRESH, True, reason, message)
        draft.wake_at(due)
    else:
        draft.condition(ConditionType.CHECKPOINT_FRESH, False, Reason.STALE, f"{message} {found.committed_at:%H:%M:%S}")


def _commit(draft: Draft, found: CheckpointStatus) -> tuple[Reason, str]:
    """What there is to say of the newest commit, and whether one like it would fit into a stop of the live attempt."""
    text, needed = f"step {found.step} was committed", stop_seconds(found)
    grace = draft.live.grace_seconds if draft.live is not None else None
    if needed is None or grace is None or needed <= grace:
        return Reason.COMMITTED, text
    told = f"{text} in {found.seconds} s; a stop, which waits for a step and two commits, takes {needed} s"
    more = grace_seconds(grace, found)
    advice = f"the next attempt has {more}" if more > needed else f"set it to {2 * needed} for the next attempt"
    return Reason.COMMIT_EXCEEDS_GRACE, f"{told}, and the pods have {grace} (terminationGracePeriodSeconds): {advice}"
