"""The deadlines that are ours, because Ray has none and KubeRay's start anew with each attempt."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from finetune_operator.api.attempt import AttemptStatus
from finetune_operator.api.reasons import FAILURES, ConditionType, Reason
from finetune_operator.api.status import JobStatus
from finetune_operator.observe import PodView
from finetune_operator.policy.classify import End
from finetune_operator.policy.seen import Seen

LENIENCE = timedelta(seconds=120)
"""The trainer ends a hang itself, with a better message; the operator waits this much longer."""

KUBERAY_ANSWERS = timedelta(seconds=60)
"""How long KubeRay may take to create the first pod of a RayJob, or to let a deleted one go."""


def overdue(attempt: AttemptStatus, status: JobStatus, seen: Seen) -> End | None:
    """How an attempt ends that has used up its time to start, or its time without a report."""
    spec = seen.job.manifest.spec
    if attempt.running_at is None:
        limit = start_limit(attempt, status, seen)
        return None if limit is None or seen.now < limit else late_start(attempt, status, seen)
    if seen.now < silence_limit(attempt, seen):
        return None
    seconds = spec.no_progress_deadline_seconds
    return End("Failed", Reason.HANG, f"no report for more than {seconds} s (spec.noProgressDeadlineSeconds)")


def admitted_since(attempt: AttemptStatus, status: JobStatus) -> datetime | None:
    """Since when the attempt's pods may exist, whether or not they do; None while a queue holds it back."""
    admitted = status.condition(ConditionType.ADMITTED)
    if admitted is None or admitted.status != "True":
        return None
    return max(admitted.last_transition_time, attempt.started_at)


def start_limit(attempt: AttemptStatus, status: JobStatus, seen: Seen) -> datetime | None:
    """When the first report is due; None while a queue holds the attempt back."""
    since = admitted_since(attempt, status)
    return None if since is None else since + timedelta(seconds=seen.job.manifest.spec.start_deadline_seconds)


def answer_limit(attempt: AttemptStatus, status: JobStatus, seen: Seen) -> datetime | None:
    """When KubeRay must have created a pod; None when it has, or when it is not its turn."""
    since = admitted_since(attempt, status)
    return None if since is None or seen.pods_of(attempt.number) else since + KUBERAY_ANSWERS


def silence_limit(attempt: AttemptStatus, seen: Seen) -> datetime:
    """When the next report is due; an operator that has just started must be given the time to hear one."""
    heard, told = seen.heard_of(attempt), seen.job.status.progress
    moments = [seen.since, attempt.running_at, told.updated_at if told else None, heard.at if heard else None]
    last = max(moment for moment in moments if moment is not None)
    return last + timedelta(seconds=seen.job.manifest.spec.no_progress_deadline_seconds) + LENIENCE


def late_start(attempt: AttemptStatus, status: JobStatus, seen: Seen) -> End:
    """Why an attempt has not started in time, from what its pods wait for."""
    seconds = seen.job.manifest.spec.start_deadline_seconds
    text = f"not training {seconds} s after admission (spec.startDeadlineSeconds)"
    waits = waiting_for(attempt, status, seen)
    if waits is None:
        return End("Failed", Reason.START_DEADLINE, text)
    reason = waits.reason if waits.reason in FAILURES else Reason.START_DEADLINE
    return End("Failed", reason, f"{text}: {waits.message}")


@dataclass(frozen=True)
class Wait:
    """What somebody must see to before the pods of an attempt can all be there and run."""

    reason: Reason
    message: str


def waiting_for(attempt: AttemptStatus, status: JobStatus, seen: Seen) -> Wait | None:
    """What keeps the pods from being there or from starting: the API server, images, room, or KubeRay."""
    ray_job, pods = seen.ray_job(attempt.number), seen.pods_of(attempt.number)
    wanted = 1 + seen.job.manifest.spec.workers.fewest
    if ray_job is not None and ray_job.refused is not None and sum(not pod.gone for pod in pods) < wanted:
        return Wait(Reason.FORBIDDEN, f"a pod of RayJob {ray_job.name} was refused: {ray_job.refused}")
    for wait in (_containers, _room):
        for pod in sorted(pods, key=lambda one: (not one.is_head, one.name)):
            if (found := wait(pod)) is not None:
                return found
    limit = answer_limit(attempt, status, seen)
    if limit is None or seen.now < limit:
        return None
    if ray_job is not None and ray_job.deployment:
        text = f"KubeRay has created no pod for it: `kubectl describe` RayJob {ray_job.name} and its RayCluster"
    else:
        text = f"KubeRay has not taken up RayJob {attempt.ray_job}: is it running, and does it watch this namespace?"
    return Wait(Reason.KUBERAY_SILENT, text)


def _containers(pod: PodView) -> Wait | None:
    if pod.waiting is None:
        return None
    reason = Reason.IMAGE_PULL if "Image" in pod.waiting[0] else Reason.CONTAINERS_NOT_READY
    return Wait(reason, f"pod {pod.name}: {pod.waiting[0]}: {pod.waiting[1]}".rstrip(": "))


def _room(pod: PodView) -> Wait | None:
    return None if pod.unschedulable is None else Wait(Reason.UNSCHEDULABLE, f"pod {pod.name}: {pod.unschedulable}")


def active_left(status: JobStatus, seen: Seen) -> timedelta | None:
    """What is left of `activeDeadlineSeconds`; None without one. Queued and suspended time does not count."""
    limit = seen.job.manifest.spec.active_deadline_seconds
    if limit is None:
        return None
    used = timedelta(seconds=status.active_seconds)
    attempt = status.attempt
    if attempt is not None and attempt.admitted_at is not None and attempt.finished_at is None:
        used += seen.now - attempt.admitted_at
    return timedelta(seconds=limit) - used
