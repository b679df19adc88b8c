"""Sorts the end of an attempt into a class, from the best witness there is.

The driver's own last report comes first where it names a class of its own. Where it only says that something broke,
what happened to the pods says more. Ray's and KubeRay's words are for an end that nobody else has seen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from finetune_operator.api.attempt import AttemptStatus
from finetune_operator.api.reasons import ConditionType, Reason
from finetune_operator.api.report import Failure, Report
from finetune_operator.observe import FAILED, STOPPED, SUCCEEDED, PodView, RayJobView
from finetune_operator.policy.seen import Seen

EXIT_CODES = {
    10: Reason.USER_ERROR,
    11: Reason.BAD_DATA,
    12: Reason.DEVICE_OUT_OF_MEMORY,
    13: Reason.HOST_OUT_OF_MEMORY,
    14: Reason.STORAGE,
    16: Reason.HANG,
}
STOPPED_WITH_COMMIT = 15
LAST_WORD = timedelta(seconds=30)
"""How long after its last report the driver may take to end by itself."""

OUTLIVED = timedelta(seconds=60)
"""A container that ended this long before the run's newest report was replaced: a later failure has another cause."""

HEAD_MISSING = timedelta(seconds=60)
"""Age from which an attempt without a head pod has lost it; before that, KubeRay may not have made it yet."""

LONGEST_WORDS = 300
"""Characters of a container's last line that are told."""

TICK = timedelta(seconds=1)
"""The resolution of times in a status."""

DISRUPTIONS = {
    "PreemptionByScheduler": Reason.PREEMPTED,
    "DeletionByTaintManager": Reason.NODE_LOST,
    "DeletionByPodGC": Reason.NODE_LOST,
    "EvictionByEvictionAPI": Reason.EVICTED,
    "TerminationByKubelet": Reason.EVICTED,
}
POD_REASONS = {
    "Evicted": Reason.EVICTED,
    "NodeLost": Reason.NODE_LOST,
    "NodeShutdown": Reason.PREEMPTED,
    "Terminated": Reason.PREEMPTED,  # the kubelet's word when its node shuts down
    "Preempting": Reason.PREEMPTED,
}
TAKEN_AWAY = frozenset({Reason.PREEMPTED, Reason.EVICTED, Reason.NODE_LOST})
"""Ends that somebody else brings about; the pods that tell of them may be gone when the attempt is judged."""

SILENT = "the node does not answer"
ANSWERS = timedelta(seconds=10)
"""In which a kubelet that lives contradicts the node controller, which takes it for lost: its own interval."""

NOW = "; now "
"""What stands between the fate of a pod and what its successor waits for."""

QUEUE_REASONS = {
    "NodeFailures": Reason.NODE_LOST,
    "PodsReadyTimeout": Reason.START_DEADLINE,
}
"""Kueue's evictions that are not for the sake of other jobs, or of its administrator."""

KUBERAY_REASONS = {
    "ValidationFailed": Reason.VALIDATION,
    "DeadlineExceeded": Reason.START_DEADLINE,
    "PreRunningDeadlineExceeded": Reason.START_DEADLINE,
    "SubmissionFailed": Reason.RAY_INTERNAL,
    "JobStatusCheckTimeoutExceeded": Reason.RAY_INTERNAL,
    "JobDeploymentStatusTransitionGracePeriodExceeded": Reason.RAY_INTERNAL,
}


@dataclass(frozen=True)
class End:
    """How an attempt ended; `node` is where, if the reason may lie in the node."""

    outcome: Literal["Succeeded", "Failed", "Stopped"]
    reason: Reason
    message: str
    node: str | None = None


def end_of(attempt: AttemptStatus, seen: Seen) -> End | None:
    """How the attempt ended, or None while it lives."""
    ray_job, heard = seen.ray_job(attempt.number), seen.heard_of(attempt)
    pods = tuple(_without_old_end(pod, heard) for pod in seen.pods_of(attempt.number))
    fate, asked = fate_of(pods) or noted(attempt, seen), seen.asked_to_stop(attempt)
    lost = _lost(attempt, ray_job, pods, fate, seen)
    certain = lost is not None or (heard is not None and seen.now - heard.at > LAST_WORD)
    if (ray_job is not None and ray_job.ray_status == SUCCEEDED) or (heard and heard.finished and certain):
        return End("Succeeded", Reason.SUCCEEDED, "the run is complete")
    if heard is not None and heard.failure is not None and certain:
        gone = lost if lost is not None and lost.reason in TAKEN_AWAY else None
        return of_failure(heard.failure, _taken_back(attempt, ray_job) or fate or gone, asked)
    return lost


def next_judgement(attempt: AttemptStatus, seen: Seen) -> datetime | None:
    """When a living attempt may be over by the passing of time alone."""
    heard = seen.heard_of(attempt)
    if heard is not None and (heard.failure is not None or heard.finished):
        return heard.at + LAST_WORD + TICK
    head = next((pod for pod in seen.pods_of(attempt.number) if pod.is_head), None)
    if head is not None:
        return given_up(head) if head.started else None
    return None if attempt.admitted_at is None else attempt.admitted_at + HEAD_MISSING + TICK


def of_failure(failure: Failure, fate: End | None, asked: Reason | None) -> End:
    """The class of an end that the driver told of; where it says nothing of the cause, the pods' fate is the class.

    `asked` is why the operator asked for a stop: one that it did not ask for is somebody else's doing.
    """
    stopped = failure.exit_code == STOPPED_WITH_COMMIT
    if stopped and asked is not None:
        return End("Stopped", asked, failure.message)
    told = f"{failure.reason}: {failure.message}"
    if failure.exit_code in EXIT_CODES:
        return End("Failed", EXIT_CODES[failure.exit_code], told)
    if fate is not None:
        return End("Failed", fate.reason, f"{fate.message}; the run said {told}", fate.node)
    if failure.reason == Reason.NODE_LOST:
        return End("Failed", Reason.NODE_LOST, told)
    return _error(f"the run was stopped, not by the operator: {failure.message}" if stopped else told)


def fate_of(pods: Iterable[PodView]) -> End | None:
    """What happened to a pod from outside, if anything did; the head's fate before a worker's."""
    for pod in sorted(pods, key=lambda one: (not one.is_head, one.name)):
        reason = _fate(pod)
        if reason is not None:
            why = pod.message or pod.disruption or pod.reason or (pod.ended[1] if pod.ended else SILENT)
            node = pod.node if reason == Reason.NODE_LOST else None
            return End("Failed", reason, f"pod {pod.name}{_where(pod)}: {why}", node)
    return None


def _fate(pod: PodView) -> Reason | None:
    if pod.ended is not None and pod.ended[1] == "OOMKilled":
        return Reason.HOST_OUT_OF_MEMORY
    if pod.disruption is not None:
        return DISRUPTIONS.get(pod.disruption, Reason.EVICTED)
    return POD_REASONS.get(pod.reason, Reason.NODE_LOST if pod.cut_off_since is not None else None)


def given_up(pod: PodView) -> datetime | None:
    """When a pod that must go is lost, because its node does not answer; None where the node may still end it well."""
    if pod.deleting_since is None or pod.cut_off_since is None:
        return None
    return max(pod.deleting_since, pod.cut_off_since + ANSWERS)


def deleted_of(pods: Iterable[PodView]) -> End | None:
    """Which pod somebody has deleted, of those of an attempt that goes on; the head before a worker."""
    for pod in sorted(pods, key=lambda one: (not one.is_head, one.name)):
        if pod.deleting_since is not None and not pod.gone and not pod.ended_by_itself:
            return End("Failed", Reason.EVICTED, f"pod {pod.name}{_where(pod)}: deleted, not by the operator")
    return None


def _where(pod: PodView) -> str:
    return f" on node {pod.node}" if pod.node else ""


def _without_old_end(pod: PodView, heard: Report | None) -> PodView:
    """A pod whose container ended and was started again, and the run went on, without that end."""
    told = heard.progress.updated_at if heard is not None and heard.progress is not None else None
    outlived = told is not None and pod.ended_at is not None and pod.ended_at + OUTLIVED < told
    return replace(pod, ended=None) if outlived else pod


def noted(attempt: AttemptStatus, seen: Seen) -> End | None:
    """What was about to happen to a pod when it was last seen, as the status keeps it until the cluster is whole."""
    known, said = seen.job.status.attempt, seen.job.status.condition(ConditionType.CLUSTER_READY)
    if known is None or known.number != attempt.number or said is None or said.reason not in TAKEN_AWAY:
        return None
    return End("Failed", said.reason, said.message.partition(NOW)[0])


def _lost(
    attempt: AttemptStatus, ray_job: RayJobView | None, pods: tuple[PodView, ...], fate: End | None, seen: Seen
) -> End | None:
    """Whether the attempt cannot go on, seen from its objects: KubeRay itself may say Running for minutes more."""
    if ray_job is None or ray_job.deleting:
        return fate or _error(f"RayJob {attempt.ray_job} was deleted, not by the operator")
    taken, head = _taken_back(attempt, ray_job), next((pod for pod in pods if pod.is_head), None)
    if taken is not None and (head is None or head.gone):  # until then, the run may still commit
        return taken
    if ray_job.over:
        return _of_ray_job(ray_job, taken or fate, seen.asked_to_stop(attempt))
    if head is None:
        missing = attempt.admitted_at is not None and seen.now - attempt.admitted_at > HEAD_MISSING
        return fate or End("Failed", Reason.NODE_LOST, "the head pod is gone") if missing else None
    if head.gone or head.ended_by_itself or _cut_off(head, seen):
        text = _end_of_head(head, attempt)
        return fate_of([head]) or noted(attempt, seen) or End("Failed", Reason.RAY_INTERNAL, text, head.node)
    return None


def _cut_off(head: PodView, seen: Seen) -> bool:
    lost = given_up(head)
    return head.started and lost is not None and seen.now >= lost


def _end_of_head(head: PodView, attempt: AttemptStatus) -> str:
    """What is known of it; the last words only of one in which nothing had run that may print a record of the data."""
    code = f" with exit code {head.ended[0]}" if head.ended else ""
    words = _last_line(head.last_words)[:LONGEST_WORDS] if attempt.running_at is None else ""
    return f"head pod {head.name} ended{code}{f': {words}' if words else ''}"


def _taken_back(attempt: AttemptStatus, ray_job: RayJobView | None) -> End | None:
    """Whether the RayJob was suspended after it had pods: by its queue, which says why where it is followed."""
    if ray_job is None or not ray_job.suspended or attempt.admitted_at is None:
        return None
    if ray_job.queue is None:
        return End("Failed", Reason.PREEMPTED, f"RayJob {ray_job.name} was suspended, not by the operator")
    evicted = ray_job.workload.evicted if ray_job.workload is not None else None
    reason = QUEUE_REASONS.get(evicted.reason, Reason.PREEMPTED) if evicted is not None else Reason.PREEMPTED
    why = f": {evicted}" if evicted is not None else ""
    return End("Failed", reason, f"queue {ray_job.queue} took the quota back{why}")


def _of_ray_job(ray_job: RayJobView, fate: End | None, asked: Reason | None) -> End:
    """What Ray and KubeRay say: the driver's exit code and the end of its log are in the message."""
    if ray_job.ray_status == SUCCEEDED:
        return End("Succeeded", Reason.SUCCEEDED, "the run is complete")
    failure = failure_in(ray_job.message)
    if ray_job.ray_status == FAILED and failure is not None:
        return of_failure(failure, fate, asked)
    if fate is not None:
        return fate
    line = _last_line(ray_job.message) or ray_job.reason or f"Ray says {ray_job.ray_status or ray_job.deployment}"
    if ray_job.deployment == "ValidationFailed":
        return End("Failed", Reason.VALIDATION, line)
    if ray_job.ray_status == STOPPED:
        return _error(f"the Ray job was stopped, not by the operator: {line}")
    return End("Failed", KUBERAY_REASONS.get(ray_job.reason, Reason.ERROR), line)


def failure_in(log: str) -> Failure | None:
    """The driver's own words at the end of its log, or its exit code with the last line that says something."""
    for line in reversed(log.splitlines()):
        found = _as_ended(line)
        if found is not None:
            return found
    code = re.search(r"exit code:? (\d+)", log)
    return Failure(int(code[1]), "Error", _last_line(log)) if code else None


def _as_ended(line: str) -> Failure | None:
    if not line.startswith("{"):
        return None
    try:
        record = json.loads(line)
        failure = record.get("failure") or {}
        return Failure(int(record["exitCode"]), str(failure.get("reason", "Error")), str(failure.get("message", "")))
    except (ValueError, KeyError, AttributeError):
        return None


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _error(message: str) -> End:
    return End("Failed", Reason.ERROR, message)
