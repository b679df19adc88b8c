"""The life of an attempt in the status: begun, admitted, running, over, and what it cost."""

from __future__ import annotations

from datetime import datetime

from finetune_operator.api.reasons import ConditionType, Reason
from finetune_operator.api.report import laid_over
from finetune_operator.api.status import AttemptStatus, FailureCount, Goodput, JobStatus, QueueStatus, WorkerCounts
from finetune_operator.observe import RayJobView
from finetune_operator.policy import deadlines
from finetune_operator.policy.classify import End, end_of, fate_of, next_judgement
from finetune_operator.policy.draft import Draft

LONGEST_REASON = 1024
"""Characters of why a queue holds a job back that stand in `queue.reason`; the condition has more."""


def adopt(draft: Draft) -> None:
    """Take up an attempt that was created by an operator that ended before it could write so down."""
    newest = max(draft.seen.ray_jobs, key=lambda one: one.attempt, default=None)
    known = draft.attempt.number if draft.attempt else 0
    if newest is not None and newest.attempt > known:
        begin(draft, newest.attempt, newest.name, newest.created)


def admit_again(draft: Draft) -> None:
    """Take back that the spec cannot be read, which is written where nothing is decided: now it could be."""
    attempt, admitted = draft.attempt, draft.status.condition(ConditionType.ADMITTED)
    if attempt is not None and admitted is not None and admitted.reason == Reason.USER_ERROR:
        draft.condition(ConditionType.ADMITTED, True, Reason.ADMITTED, f"attempt {attempt.number} was created")


def begin(draft: Draft, number: int, ray_job: str, created: datetime) -> None:
    """Note an attempt whose RayJob exists."""
    step = draft.status.checkpoint.step if draft.status.checkpoint else None
    draft.add_attempt(AttemptStatus(number=number, ray_job=ray_job, started_at=created, first_step=step or 0))
    draft.update(start_time=draft.status.start_time or created, restarts=0, queue=None)
    draft.condition(ConditionType.ADMITTED, True, Reason.ADMITTED, f"attempt {number} was created")
    draft.not_suspended(Reason.RESUMED)
    draft.condition(ConditionType.CLUSTER_READY, False, Reason.STARTING)
    draft.condition(ConditionType.TRAINING, False, Reason.STARTING)


def observe(draft: Draft) -> None:
    """Take over what the newest attempt told, also after its end; while it lives, what its objects say, and its end."""
    if draft.attempt is not None:
        _take_over(draft, draft.attempt)
    attempt = draft.live
    if attempt is None:
        return
    _observe_pods(draft, attempt)
    _observe_reports(draft, attempt)
    end = end_of(draft.live or attempt, draft.seen)
    if end is not None:
        finish(draft, end)
    else:
        draft.wake_at(next_judgement(draft.live or attempt, draft.seen))


def _observe_pods(draft: Draft, attempt: AttemptStatus) -> None:
    seen, workers = draft.seen, draft.seen.job.manifest.spec.workers
    pods = seen.pods_of(attempt.number)
    ready = sum(pod.ready for pod in pods if not pod.is_head)
    draft.update(workers=WorkerCounts(ready=ready, desired=workers.replicas))
    ray_job = seen.ray_job(attempt.number)
    if pods and attempt.admitted_at is None:
        draft.change_attempt(admitted_at=min(pod.created for pod in pods))
    if ray_job is not None:
        _observe_queue(draft, ray_job, held=ray_job.suspended and attempt.admitted_at is None and not pods)
    whole = ready == workers.replicas and any(pod.is_head and pod.ready for pod in pods)
    leaving = fate_of(pod for pod in pods if pod.disruption is not None and not (whole and pod.gone))
    if leaving is not None:  # kept in the status: the pod may be gone when the attempt is judged
        draft.condition(ConditionType.CLUSTER_READY, False, leaving.reason, leaving.message)
    elif whole:
        draft.condition(ConditionType.CLUSTER_READY, True, Reason.READY, f"head and {ready} workers are ready")
    elif (waits := deadlines.waiting_for(attempt, draft.status, seen)) is not None:
        draft.condition(ConditionType.CLUSTER_READY, False, waits.reason, waits.message)
    else:
        draft.wake_at(deadlines.answer_limit(attempt, draft.status, seen))
        text = f"{ready} of {workers.replicas} workers are ready"
        draft.condition(ConditionType.CLUSTER_READY, False, Reason.STARTING, text)


def _observe_queue(draft: Draft, ray_job: RayJobView, *, held: bool) -> None:
    """A suspended RayJob that never had pods is one that its queue has not let in."""
    if not held:
        if not draft.status.holds(ConditionType.ADMITTED):
            whose = "was created" if ray_job.queue is None else f"was admitted by queue {ray_job.queue}"
            draft.condition(ConditionType.ADMITTED, True, Reason.ADMITTED, f"attempt {ray_job.attempt} {whose}")
        draft.update(queue=None)
        return
    if ray_job.queue is None:
        why = message = f"RayJob {ray_job.name} is suspended, and by no queue: set its spec.suspend to false"
    else:
        waits = ray_job.workload.waits if ray_job.workload is not None else None
        why = "waits for quota" if waits is None else str(waits)
        message = f"waits in queue {ray_job.queue} for quota" if waits is None else f"queue {ray_job.queue}: {waits}"
    draft.condition(ConditionType.ADMITTED, False, Reason.QUEUED, message)
    draft.update(queue=QueueStatus(name=ray_job.queue, reason=why[:LONGEST_REASON]))


def _take_over(draft: Draft, attempt: AttemptStatus) -> None:
    heard = draft.seen.heard_of(attempt)
    if heard is not None:
        draft.update(
            progress=laid_over(draft.status.progress, heard.progress),
            checkpoint=laid_over(draft.status.checkpoint, heard.checkpoint),
            output=heard.output or draft.status.output,
        )
    if attempt.finished_at is not None:
        _recount(draft, attempt, attempt.finished_at)


def _observe_reports(draft: Draft, attempt: AttemptStatus) -> None:
    heard = draft.seen.heard_of(attempt)
    if heard is None:
        return
    if heard.restarts is not None:
        draft.update(restarts=heard.restarts)
    step = heard.progress.step if heard.progress else 0
    draft.change_attempt(running_at=attempt.running_at or heard.at, last_step=step or attempt.last_step)
    if heard.failure is not None:
        draft.condition(ConditionType.TRAINING, False, Reason.STOPPING)
        return
    activity = heard.progress.activity if heard.progress else None
    draft.condition(ConditionType.TRAINING, step > 0, Reason.RUNNING if step else Reason.STARTING, activity or "")


def finish(draft: Draft, end: End) -> None:
    """Write down how the newest attempt ended, and count it."""
    attempt = draft.attempt
    assert attempt is not None
    lost = _steps_lost(draft.status, attempt)
    ended = {"finished_at": draft.seen.now, "outcome": end.outcome, "reason": end.reason, "message": end.message}
    draft.change_attempt(**ended, steps_lost=lost)
    draft.update(goodput=goodput(draft.status, attempt, lost, draft.seen.now), workers=None)
    if attempt.admitted_at is not None:
        seconds = int((draft.seen.now - attempt.admitted_at).total_seconds())
        draft.update(active_seconds=draft.status.active_seconds + max(0, seconds))
    if end.outcome == "Failed":
        draft.update(failures=_counted(draft.status, end.reason))
    draft.condition(ConditionType.TRAINING, False, end.reason, end.message)
    draft.condition(ConditionType.CLUSTER_READY, False, end.reason)


def _steps_lost(status: JobStatus, attempt: AttemptStatus) -> int:
    committed = status.checkpoint.step if status.checkpoint else None
    return max(0, (attempt.last_step or 0) - max(committed or 0, attempt.first_step or 0))


def _recount(draft: Draft, attempt: AttemptStatus, end: datetime) -> None:
    """A commit that is told after the end saves steps that were counted as lost."""
    lost, before, account = _steps_lost(draft.status, attempt), attempt.steps_lost or 0, draft.status.goodput
    if lost >= before or account is None:
        return
    running = draft.seen.job.manifest.spec.workers.replicas * _seconds(attempt.running_at, end)
    saved = _wasted(attempt, before, running) - _wasted(attempt, lost, running)
    draft.change_attempt(steps_lost=lost)
    changed = {
        "productive_worker_seconds": account.productive_worker_seconds + saved,
        "lost_to_restarts_worker_seconds": account.lost_to_restarts_worker_seconds - saved,
    }
    draft.update(goodput=account.model_copy(update=changed))


def _counted(status: JobStatus, reason: Reason) -> tuple[FailureCount, ...]:
    counts = {one.reason: one.count for one in status.failures}
    counts[reason] = counts.get(reason, 0) + 1
    return tuple(FailureCount(reason=one, count=count) for one, count in sorted(counts.items()))


def goodput(status: JobStatus, attempt: AttemptStatus, lost: int, now: datetime) -> Goodput:
    """The account after an attempt: its time with pods, and which part of its time with ranks was for steps that count.

    The time of a lost step is taken as the attempt's mean time of a step.
    """
    workers = status.workers.desired if status.workers else 0
    before = status.goodput or Goodput()
    allocated = workers * _seconds(attempt.admitted_at, now)
    running = workers * _seconds(attempt.running_at, now)
    wasted = _wasted(attempt, lost, running)
    return Goodput(
        allocated_worker_seconds=before.allocated_worker_seconds + allocated,
        productive_worker_seconds=before.productive_worker_seconds + running - wasted,
        lost_to_restarts_worker_seconds=before.lost_to_restarts_worker_seconds + wasted,
    )


def _wasted(attempt: AttemptStatus, lost: int, running: int) -> int:
    steps = max(0, (attempt.last_step or 0) - (attempt.first_step or 0))
    return running * lost // steps if steps else running


def _seconds(start: datetime | None, now: datetime) -> int:
    return 0 if start is None else max(0, int((now - start).total_seconds()))
