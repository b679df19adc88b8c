"""The decision about a job, top to bottom: what was there, what has ended, what shall be, what to do next.

Nothing that would lose a fact is done before the fact is in the status as the API server has it: an attempt's objects
go only after its end was written, and the next attempt begins only after they are gone. So an operator may end between
any two writes, and the next one goes on from the status.
"""

from __future__ import annotations

from datetime import timedelta

from finetune_operator.api.attempt import AttemptStatus
from finetune_operator.api.job import FINALIZER
from finetune_operator.api.reasons import ConditionType, Reason
from finetune_operator.api.status import OutputStatus, QueueStatus
from finetune_operator.policy import attempts, budget, deadlines, elastic
from finetune_operator.policy.actions import (
    AddFinalizer,
    CreateAttempt,
    Decision,
    DeleteJob,
    RemoveFinalizer,
)
from finetune_operator.policy.admission import UNTIL_TRIED, turn
from finetune_operator.policy.clearing import cleared, force_lost_pods
from finetune_operator.policy.draft import Draft
from finetune_operator.policy.phase import checkpoint_freshness, phase_of
from finetune_operator.policy.seen import Obstacle, Seen
from finetune_operator.policy.stops import WORDS, stop

LINE_INTERVAL = timedelta(seconds=60)
"""How often the first of a line look at their place; the others do so a second later for each job before them."""


def decide(seen: Seen) -> Decision:
    """What to do about one job, from one look at it; the same look gives the same decision."""
    draft = Draft(seen)
    draft.update(observed_generation=seen.job.generation)
    attempts.adopt(draft)
    attempts.admit_again(draft)
    attempts.observe(draft)
    _end_overdue(draft)
    _settle_stop(draft)
    if seen.job.deleted is not None:
        _delete(draft)
    elif draft.status.finished or _conclude(draft):
        _retire(draft)
    elif seen.job.manifest.spec.suspend:
        _suspend(draft)
    elif draft.live is not None:
        _watch(draft, draft.live)
    else:
        _start(draft)
    checkpoint_freshness(draft)
    draft.update(phase=phase_of(draft))
    return draft.decision()


def _end_overdue(draft: Draft) -> None:
    attempt = draft.live
    if attempt is not None and (late := deadlines.overdue(attempt, draft.status, draft.seen)) is not None:
        attempts.finish(draft, late)


def _settle_stop(draft: Draft) -> None:
    """A stop that was asked for is why the attempt stopped, however it ended; with the attempt the request is over."""
    asked, attempt = draft.status.stop, draft.attempt
    if asked is None or attempt is None or attempt.finished_at is None:
        return
    if attempt.outcome == "Stopped":
        draft.change_attempt(reason=asked.reason)
    draft.update(stop=None)


def _conclude(draft: Draft) -> bool:
    """Whether the job is over with its newest attempt; then say so."""
    attempt = draft.attempt
    if attempt is None or attempt.finished_at is None:
        return False
    if attempt.outcome == "Succeeded":
        _complete(draft, attempt)
    elif attempt.reason == Reason.ACTIVE_DEADLINE:
        _fail(draft, Reason.ACTIVE_DEADLINE, attempt.message or "")
    elif attempt.outcome == "Failed":
        assert attempt.reason is not None
        counts = {one.reason: one.count for one in draft.status.failures}
        judged = budget.verdict(draft.seen.job.manifest.spec.failure_policy, counts, attempt.reason)
        if not judged.retry:
            _fail(draft, attempt.reason, f"attempt {attempt.number}: {attempt.message}; {judged.message}")
    return draft.status.finished


def _complete(draft: Draft, attempt: AttemptStatus) -> None:
    """A result that nobody heard lies where the manifest says; only its verdict is missing then."""
    output = draft.status.output or OutputStatus(uri=draft.seen.job.manifest.spec.output.uri)
    draft.update(completion_time=draft.seen.now, queue=None, output=output)
    where = f"; the model is at {output.uri}" if output.uri else ""
    draft.condition(ConditionType.COMPLETE, True, Reason.SUCCEEDED, f"{attempt.message}{where}")
    draft.not_suspended(Reason.SUCCEEDED)


def _fail(draft: Draft, reason: Reason, message: str) -> None:
    draft.update(completion_time=draft.seen.now, queue=None)
    draft.condition(ConditionType.FAILED, True, reason, message)
    draft.not_suspended(reason)


def _delete(draft: Draft) -> None:
    """A deleted job stops with a commit, and goes when its pods are gone."""
    if draft.live is not None:
        stop(draft, draft.live, Reason.DELETED)
    if cleared(draft) and FINALIZER in draft.seen.job.finalizers:
        draft.act(RemoveFinalizer())


def _retire(draft: Draft) -> None:
    """A finished job gives its cluster back at once, and goes itself when its time to live is over."""
    ttl, done = draft.seen.job.manifest.spec.ttl_seconds_after_finished, draft.written.completion_time
    if cleared(draft) and ttl is not None and done is not None:
        due = done + timedelta(seconds=ttl)
        if draft.seen.now >= due:
            draft.act(DeleteJob())
        draft.wake_at(due)


def _suspend(draft: Draft) -> None:
    if draft.live is not None:
        stop(draft, draft.live, Reason.SUSPENDED)
    if draft.live is None and cleared(draft):
        draft.condition(ConditionType.SUSPENDED, True, Reason.SUSPENDED, "set spec.suspend to false to go on")
        draft.condition(ConditionType.ADMITTED, False, Reason.SUSPENDED)
    draft.update(queue=None)


def _watch(draft: Draft, attempt: AttemptStatus) -> None:
    """A live attempt: help KubeRay over lost nodes, hold the job to its total time."""
    force_lost_pods(draft)
    left = deadlines.active_left(draft.status, draft.seen)
    if draft.status.stop is not None or (left is not None and left <= timedelta(0)):
        stop(draft, attempt, draft.status.stop.reason if draft.status.stop else Reason.ACTIVE_DEADLINE)
        return
    if left is not None:
        draft.wake_at(draft.seen.now + left)
    if attempt.running_at is None:
        draft.wake_at(deadlines.start_limit(attempt, draft.status, draft.seen))
    else:
        draft.wake_at(deadlines.silence_limit(attempt, draft.seen))
    elastic.let_all_in(draft, attempt)


def _start(draft: Draft) -> None:
    """The first attempt or the next one, as soon as nothing stands against it."""
    seen, last = draft.seen, draft.attempt
    draft.not_suspended(Reason.RESUMED)
    left = deadlines.active_left(draft.status, seen)
    if last is not None and left is not None and left <= timedelta(0):
        _fail(draft, Reason.ACTIVE_DEADLINE, f"{WORDS[Reason.ACTIVE_DEADLINE]}; attempt {last.number}: {last.message}")
        _retire(draft)
        return
    if not cleared(draft):
        return
    due = None if last is None or last.finished_at is None else last.finished_at + budget.pause(draft.status.attempts)
    if due is not None and seen.now < due:
        assert last is not None
        message = f"attempt {last.number} ended: {last.reason}; the next one starts at {due:%H:%M:%S} UTC"
        draft.condition(ConditionType.ADMITTED, False, Reason.RETRYING, message)
        draft.wake_at(due)
    elif seen.obstacle is not None:
        _wait(draft, seen.obstacle)
    else:
        if FINALIZER not in seen.job.finalizers:
            draft.act(AddFinalizer())
        draft.act(CreateAttempt(1 if last is None else last.number + 1))


def _wait(draft: Draft, obstacle: Obstacle) -> None:
    """Say what the job waits for; a place in a line is looked at now and then, anything else heals by an event.

    What the API server refused stands until the job is tried again, for which it takes its place in the line.
    """
    admitted = draft.status.condition(ConditionType.ADMITTED)
    if obstacle.position is None or admitted is None or admitted.reason not in UNTIL_TRIED:
        draft.condition(ConditionType.ADMITTED, False, obstacle.reason, obstacle.message)
    if obstacle.position is None:
        draft.update(queue=None)
    else:
        runtime = draft.seen.job.manifest.spec.runtime_ref.name
        draft.update(queue=QueueStatus(name=runtime, reason=turn(obstacle.position), position=obstacle.position))
        draft.wake_at(draft.seen.now + LINE_INTERVAL + timedelta(seconds=obstacle.position))
