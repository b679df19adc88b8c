"""The events of a job: what changed between two statuses, as sentences for `kubectl describe`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from finetune_operator.api.attempt import AttemptStatus
from finetune_operator.api.reasons import ConditionType, Reason
from finetune_operator.api.status import JobStatus

TOLD = (ConditionType.ADMITTED, ConditionType.CLUSTER_READY, ConditionType.TRAINING, ConditionType.SUSPENDED)
"""Conditions whose changes are events; ends of attempts and of the job are told by themselves."""

UNSAID = (Reason.ADMITTED, Reason.STARTING)
"""Reasons of conditions that say no more than that the attempt was created, when it just was."""

BY_ITSELF = (Reason.QUEUED, Reason.RUN_LIMIT_REACHED, Reason.STARTING, Reason.STOPPING, Reason.SUSPENDED)
"""Why a condition does not hold, where nobody needs to look; for any other reason it is a warning."""


@dataclass(frozen=True)
class Event:
    """One sentence of the story; `reason` is the word, `note` the sentence."""

    kind: Literal["Normal", "Warning"]
    reason: Reason
    note: str


def events_between(old: JobStatus, new: JobStatus) -> list[Event]:
    """What happened between two statuses of a job, in the order in which it is to be read."""
    return [*_attempts(old, new), *_conditions(old, new), *_commits(old, new), *_ends(old, new)]


def ended_between(old: JobStatus, new: JobStatus) -> list[AttemptStatus]:
    """The attempts that ended between two statuses of a job."""
    over = {attempt.number for attempt in old.attempts if attempt.finished_at is not None}
    return [one for one in new.attempts if one.finished_at is not None and one.number not in over]


def _attempts(old: JobStatus, new: JobStatus) -> Iterator[Event]:
    known, ended = {attempt.number for attempt in old.attempts}, ended_between(old, new)
    for attempt in new.attempts:
        if attempt.number not in known:
            off = f"; its pods keep off {', '.join(attempt.avoided_nodes)}" if attempt.avoided_nodes else ""
            yield Event("Normal", Reason.STARTING, f"attempt {attempt.number}: created RayJob {attempt.ray_job}{off}")
        if attempt in ended:
            yield _end_of(attempt)
    if new.stop is not None and old.stop is None:
        text = f"asked attempt {new.stop.attempt} to commit and stop by {new.stop.deadline:%H:%M:%S} UTC"
        yield Event("Normal", Reason.STOPPING, f"{text}: {new.stop.reason}")


def _end_of(attempt: AttemptStatus) -> Event:
    kind: Literal["Normal", "Warning"] = "Warning" if attempt.outcome == "Failed" else "Normal"
    lost = f"; {attempt.steps_lost} steps lost" if attempt.steps_lost else ""
    text = f"attempt {attempt.number} ended: {attempt.outcome}: {attempt.message}{lost}"
    return Event(kind, attempt.reason or Reason.ERROR, text)


def _conditions(old: JobStatus, new: JobStatus) -> Iterator[Event]:
    over = new.attempt is not None and new.attempt.finished_at is not None  # which `_attempts` tells
    begun = new.attempt is not None and new.attempt.number not in {attempt.number for attempt in old.attempts}
    for kind in TOLD:
        before, now = old.condition(kind), new.condition(kind)
        if now is None or not now.message or (begun and now.reason in UNSAID):
            continue
        if kind == ConditionType.TRAINING and over:
            continue
        if before is None or (before.status, before.reason) != (now.status, now.reason):
            normal = now.status == "True" or now.reason in BY_ITSELF
            yield Event("Normal" if normal else "Warning", now.reason, now.message)


def _commits(old: JobStatus, new: JobStatus) -> Iterator[Event]:
    before = old.checkpoint.step if old.checkpoint else None
    if new.checkpoint is not None and new.checkpoint.step is not None and new.checkpoint.step > (before or 0):
        yield Event("Normal", Reason.COMMITTED, f"committed a checkpoint at step {new.checkpoint.step}")
    damaged = new.checkpoint.damaged if new.checkpoint else None
    if damaged is not None and (old.checkpoint is None or damaged != old.checkpoint.damaged):
        text = f"set the damaged checkpoint of step {damaged.step} aside, to go on from an older one: {damaged.message}"
        yield Event("Warning", Reason.CHECKPOINT_DAMAGED, text)
    said, fresh = old.condition(ConditionType.CHECKPOINT_FRESH), new.condition(ConditionType.CHECKPOINT_FRESH)
    slow = Reason.COMMIT_EXCEEDS_GRACE
    if fresh is not None and fresh.reason == slow and (said is None or said.reason != slow):
        yield Event("Warning", slow, fresh.message)


def _ends(old: JobStatus, new: JobStatus) -> Iterator[Event]:
    if new.holds(ConditionType.COMPLETE) and not old.holds(ConditionType.COMPLETE):
        where = f"; the model is at {new.output.uri}" if new.output and new.output.uri else ""
        yield Event("Normal", Reason.SUCCEEDED, f"the job is complete{where}")
    failed = new.condition(ConditionType.FAILED)
    if failed is not None and failed.status == "True" and not old.holds(ConditionType.FAILED):
        yield Event("Warning", failed.reason, f"the job failed: {failed.message}")
