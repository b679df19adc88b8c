"""The deadlines that are ours, because Ray has none and KubeRay's start anew with each attempt."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from finetune_operator.api.reasons import Reason
from finetune_operator.api.status import AttemptStatus
from finetune_operator.observe import PodView
from finetune_operator.policy.classify import End
from finetune_operator.policy.seen import Seen

LENIENCE = timedelta(seconds=120)
"""The trainer ends a hang itself, with a better message; the operator waits this much longer."""


def overdue(attempt: AttemptStatus, seen: Seen) -> End | None:
    """How an attempt ends that has used up its time to start, or its time without a report."""
    spec = seen.job.manifest.spec
    if attempt.running_at is None:
        limit = start_limit(attempt, seen)
        return None if limit is None or seen.now < limit else late_start(spec.start_deadline_seconds, attempt, seen)
    if seen.now < silence_limit(attempt, seen):
        return None
    seconds = spec.no_progress_deadline_seconds
    return End("Failed", Reason.HANG, f"no report for more than {seconds} s (spec.noProgressDeadlineSeconds)")


def start_limit(attempt: AttemptStatus, seen: Seen) -> datetime | None:
    """When the first report is due; None while a queue holds the attempt back."""
    if attempt.admitted_at is None:
        return None
    return attempt.admitted_at + timedelta(seconds=seen.job.manifest.spec.start_deadline_seconds)


def silence_limit(attempt: AttemptStatus, seen: Seen) -> datetime:
    """When the next report is due; an operator that has just started must be given the time to hear one."""
    heard, told = seen.heard_of(attempt), seen.job.status.progress
    moments = [seen.since, attempt.running_at, told.updated_at if told else None, heard.at if heard else None]
    last = max(moment for moment in moments if moment is not None)
    return last + timedelta(seconds=seen.job.manifest.spec.no_progress_deadline_seconds) + LENIENCE


def late_start(seconds: int, attempt: AttemptStatus, seen: Seen) -> End:
    """Why an attempt has not started in time, from what its pods wait for."""
    pods = seen.pods_of(attempt.number)
    text = f"not training {seconds} s after admission (spec.startDeadlineSeconds)"
    waits = waiting_for(pods)
    if waits is None:
        return End("Failed", Reason.START_DEADLINE, text)
    return End("Failed", waits.reason, f"{text}: {waits.message}")


def waiting_for(pods: Iterable[PodView]) -> End | None:
    """What keeps the pods from starting: images or room, the first pod that says so."""
    ordered = sorted(pods, key=lambda one: (not one.is_head, one.name))
    for pod in ordered:
        if pod.waiting is not None:
            pulls = "Image" in pod.waiting[0] or pod.waiting[0] == "ErrImagePull"
            reason = Reason.IMAGE_PULL if pulls else Reason.START_DEADLINE
            return End("Failed", reason, f"pod {pod.name}: {pod.waiting[0]}: {pod.waiting[1]}".rstrip(": "))
    for pod in ordered:
        if pod.unschedulable is not None:
            return End("Failed", Reason.UNSCHEDULABLE, f"pod {pod.name}: {pod.unschedulable}")
    return None


def active_left(seen: Seen) -> timedelta | None:
    """What is left of `activeDeadlineSeconds`; None without one. Queued and suspended time does not count."""
    limit = seen.job.manifest.spec.active_deadline_seconds
    if limit is None:
        return None
    status = seen.job.status
    used = timedelta(seconds=status.active_seconds)
    attempt = status.attempt
    if attempt is not None and attempt.admitted_at is not None and attempt.finished_at is None:
        used += seen.now - attempt.admitted_at
    return timedelta(seconds=limit) - used
