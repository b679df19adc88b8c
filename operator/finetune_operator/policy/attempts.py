"""The life of an attempt in the status: begun, admitted, running, over, and what it cost."""

from __future__ import annotations

from datetime import datetime

from finetune_operator.api.attempt import OFFENCES, AttemptStatus
from finetune_operator.api.reasons import ConditionType, Reason
from finetune_operator.api.report import laid_over
from finetune_operator.api.status import FailureCount, Goodput, JobStatus, QueueStatus, WorkerCounts
from finetune_operator.observe import RayJobView
from finetune_operator.policy import deadlines
from finetune_operator.policy.classify import NOW, End, deleted_of, end_of, fate_of, next_judgement, noted
from finetune_operator.policy.draft import Draft
from finetune_operator.policy.seen import Seen
from finetune_trainer.spec import logs_uri
from finetune_trainer.spec.workers import Workers

LONGEST_REASON = 1024
"""Characters of why a queue holds a job back that stand in `queue.reason`; the condition has more."""


def adopt(draft: Draft) -> None:
    """Take up an attempt that was created by an operator that ended before it could write so down."""
    newest = max(draft.seen.ray_jobs, key=lambda one: one.attempt, default=None)
    known = draft.attempt.number if draft.attempt else 0
    if newest is not None and newest.attempt > known:
        begin(draft, newest)


def admit_again(draft: Draft) -> None:
    """Take back that the spec cannot be read, which is written where nothing is decided: now it could be."""
    attempt, admitted = draft.attempt, draft.status.condition(ConditionType.ADMITTED)
    if attempt is not None and admitted is not None and admitted.reason == Reason.USER_ERROR:
        _admitted(draft, attempt, "was created")


def begin(draft: Draft, ray_job: RayJobView) -> None:
    """Note an attempt whose RayJob exists."""
    step = draft.status.checkpoint.step if draft.status.checkpoint else None
    attempt = AttemptStatus(
        number=ray_job.attempt,
        ray_job=ray_job.name,
        started_at=ray_job.created,
        logs=f"{logs_uri(draft.seen.job.manifest)}/{ray_job.attempt}",
        grace_seconds=ray_job.grace_seconds,
        avoided_nodes=draft.status.offenders,
        first_step=step or 0,
    )
    draft.add_attempt(attempt)
    draft.update(start_time=draft.status.start_time or ray_job.created, restarts=0, queue=None)
    _admitted(draft, attempt, "was created")
    draft.not_suspended(Reason.RESUMED)
    draft.condition(ConditionType.CLUSTER_READY, False, Reason.STARTING)
    draft.condition(ConditionType.TRAINING, False, Reason.STARTING)


def _admitted(draft: Draft, attempt: AttemptStatus, how: str) -> None:
    off = f"; {OFFENCES} attempts ended on {', '.join(attempt.avoided_nodes)}: its pods go to other nodes"
    text = f"attempt {attempt.number} {how}{off if attempt.avoided_nodes else ''}"
    draft.condition(ConditionType.ADMITTED, True, Reason.ADMITTED, text)


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
        _observe_queue(draft, attempt, ray_job, held=ray_job.suspended and attempt.admitted_at is None and not pods)
    staying = [pod for pod in pods if pod.ready and pod.deleting_since is None]
    whole = sum(not pod.is_head for pod in staying) >= workers.fewest and any(pod.is_head for pod in staying)
    leaving = fate_of(pod for pod in pods if (pod.disruption or pod.cut_off_since) and not (whole and pod.gone))
    if leaving is None and _goes_on(seen, attempt, ray_job):
        leaving = deleted_of(pods)
    waits = deadlines.waiting_for(attempt, draft.status, seen)
    if leaving is None and not whole:
        leaving = noted(attempt, seen)
    if leaving is not None:  # kept in the status: the pod may be gone when the attempt is judged
        text = f"{leaving.message}{NOW}{waits.message}" if waits is not None else leaving.message
        draft.condition(ConditionType.CLUSTER_READY, False, leaving.reason, text)
    elif whole:
        text = f"head and {_of(ready, workers)} workers are ready"
        draft.condition(ConditionType.CLUSTER_READY, True, Reason.READY, text)
    elif waits is not None:
        draft.condition(ConditionType.CLUSTER_READY, False, waits.reason, waits.message)
    else:
        draft.wake_at(deadlines.answer_limit(attempt, draft.status, seen))
        text = f"{ready} of {workers.replicas} workers are ready"
        draft.condition(ConditionType.CLUSTER_READY, False, Reason.STARTING, text)


def _of(ready: int, workers: Workers) -> str:
    return str(ready) if workers.min_replicas is None else f"{ready} of {workers.replicas}"


def _goes_on(seen: Seen, attempt: AttemptStatus, ray_job: RayJobView | None) -> bool:
    """Whether nothing is known by which KubeRay would delete the pods of a living attempt."""
    heard = seen.heard_of(attempt)
    told = heard is not None and (heard.failure is not None or heard.finished)
    return not told and ray_job is not None and not (ray_job.over or ray_job.deleting or ray_job.suspended)


def _observe_queue(draft: Draft, attempt: AttemptStatus, ray_job: RayJobView, *, held: bool) -> None:
    """A suspended RayJob that never had pods is one that its queue has not let in."""
    if not held:
        if not draft.status.holds(ConditionType.ADMITTED):
            how = "was created" if ray_job.queue is None else f"was admitted by queue {ray_job.queue}"
            _admitted(draft, attempt, how)
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
    step = heard.progress.step if heard.progress and "step" in heard.progress.model_fields_set else None
    if step is not None and step < (attempt.first_step or 0):
        _resumed_earlier(draft, attempt.first_step or 0, step)
    draft.change_attempt(
        running_at=attempt.running_at or heard.at,
        last_step=attempt.last_step if step is None else step,
        steps_lost=attempt.steps_lost if heard.steps_lost is None else heard.steps_lost,
    )
    if heard.failure is not None:
        draft.condition(ConditionType.TRAINING, False, Reason.STOPPING)
        return
    activity = heard.progress.activity if heard.progress else None
    draft.condition(ConditionType.TRAINING, bool(step), Reason.RUNNING if step else Reason.STARTING, activity or "")


def finish(draft: Draft, end: End) -> None:
    """Write down how the newest attempt ended, and count it."""
    attempt = draft.attempt
    assert attempt is not None
    at_the_end = _uncommitted(draft.status, attempt)
    lost = (attempt.steps_lost or 0) + at_the_end
    ended = {"outcome": end.outcome, "reason": end.reason, "message": end.message, "node": end.node}
    draft.change_attempt(finished_at=draft.seen.now, **ended, steps_lost=lost)
    draft.update(goodput=goodput(draft.status, attempt, at_the_end, draft.seen.now), workers=None)
    if attempt.admitted_at is not None:
        seconds = int((draft.seen.now - attempt.admitted_at).total_seconds())
        draft.update(active_seconds=draft.status.active_seconds + max(0, seconds))
    if end.outcome == "Failed":
        draft.update(failures=_counted(draft.status, end.reason))
    draft.condition(ConditionType.TRAINING, False, end.reason, end.message)
    draft.condition(ConditionType.CLUSTER_READY, False, end.reason)


def _uncommitted(status: JobStatus, attempt: AttemptStatus) -> int:
    """Steps of the attempt after its newest commit."""
    committed = status.checkpoint.step if status.checkpoint else None
    return max(0, (attempt.last_step or 0) - max(committed or 0, attempt.first_step or 0))


def _recount(draft: Draft, attempt: AttemptStatus, end: datetime) -> None:
    """A commit that is told after the end saves steps that were counted as lost."""
    before, now = _uncommitted(draft.written, attempt), _uncommitted(draft.status, attempt)
    if now < before <= (attempt.steps_lost or 0):
        draft.change_attempt(steps_lost=_moved(draft, attempt, end, before, now))


def _resumed_earlier(draft: Draft, planned: int, step: int) -> None:
    """A damaged commit was set aside: what it had saved of the attempt before this one is lost after all."""
    *older, newest = draft.status.attempts
    if older and (ended := older[-1].finished_at) is not None:
        reached = older[-1].last_step or 0
        before, now = max(0, reached - planned), max(0, reached - max(step, older[-1].first_step or 0))
        lost = _moved(draft, older[-1], ended, before, now)
        older[-1] = older[-1].model_copy(update={"steps_lost": lost})
    draft.update(attempts=(*older, newest.model_copy(update={"first_step": step})))


def _moved(draft: Draft, attempt: AttemptStatus, end: datetime, before: int, now: int) -> int:
    """All steps that an attempt lost, when `now` instead of `before` of them are those after its last commit.

    The time of the difference is moved in the account.
    """
    at_restarts = max(0, (attempt.steps_lost or 0) - before)
    alone = attempt.model_copy(update={"steps_lost": at_restarts})
    running = draft.seen.job.manifest.spec.workers.replicas * _seconds(attempt.running_at, end)
    saved = _wasted(alone, before, running) - _wasted(alone, now, running)
    if (account := draft.status.goodput) is not None:  # whose times were rounded when they were summed
        saved = max(-account.productive_worker_seconds, min(account.lost_to_restarts_worker_seconds, saved))
        changed = {
            "productive_worker_seconds": account.productive_worker_seconds + saved,
            "lost_to_restarts_worker_seconds": account.lost_to_restarts_worker_seconds - saved,
        }
        draft.update(goodput=account.model_copy(update=changed))
    return at_restarts + now


def _counted(status: JobStatus, reason: Reason) -> tuple[FailureCount, ...]:
    counts = {one.reason: one.count for one in status.failures}
    counts[reason] = counts.get(reason, 0) + 1
    return tuple(FailureCount(reason=one, count=count) for one, count in sorted(counts.items()))


def goodput(status: JobStatus, attempt: AttemptStatus, lost: int, now: datetime) -> Goodput:
    """The account after an attempt: its time with pods, and which part of its time with ranks was for steps that count.

    `lost` are the steps after its last commit; `attempt.steps_lost` those that its restarts threw away before. The time
    of a lost step is taken as the attempt's mean time of a step.
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
    at_restarts = attempt.steps_lost or 0
    steps = max(0, (attempt.last_step or 0) - (attempt.first_step or 0)) + at_restarts
    return running * (lost + at_restarts) // steps if steps else running


def _seconds(start: datetime | None, now: datetime) -> int:
    return 0 if start is None else max(0, int((now - start).total_seconds()))
