"""Clears away what is left of attempts that are over, and says what that waits for when it takes long."""

from __future__ import annotations

from datetime import timedelta

from finetune_operator.api.attempt import AttemptStatus
from finetune_operator.api.reasons import ConditionType, Reason
from finetune_operator.policy import deadlines
from finetune_operator.policy.actions import DeleteRayJob, ForceDeletePod
from finetune_operator.policy.classify import given_up
from finetune_operator.policy.draft import Draft
from finetune_operator.policy.seen import Seen

POD_END = timedelta(seconds=30)
"""How long after its own grace a deleted pod's node may take to answer before the pod is deleted by force."""

KUBERAYS = "ray.io/"
"""Prefix of KubeRay's finalizers."""

LONG_WAITS = (Reason.KUBERAY_SILENT, Reason.STOPPING)


def cleared(draft: Draft) -> bool:
    """Whether nothing of the attempts that are over is left; else see to it."""
    written = draft.written.attempt
    for ray_job in draft.seen.ray_jobs:
        recorded = written is not None and (ray_job.attempt < written.number or _over(written, ray_job.attempt))
        if recorded and not ray_job.deleting:
            draft.act(DeleteRayJob(ray_job))
    force_lost_pods(draft)
    if draft.live is not None:
        return False
    _say_what_is_left(draft)
    return not draft.seen.ray_jobs and not draft.seen.pods


def force_lost_pods(draft: Draft) -> None:
    """A pod on a node that does not answer stays for ever, and KubeRay counts it as there.

    Where Kubernetes has given the node up, no grace is kept: nobody there hears of the deletion. What runs on behind a
    cut of the network is fenced: the ranks that start anew claim the run, after which no older one can commit.
    Neither is any kept by a pod in which Ray never ran: KubeRay's init container does not hear that it shall end.
    """
    for pod in draft.seen.pods:
        if pod.deleting_since is None:
            continue
        in_any_case = pod.deleting_since + timedelta(seconds=pod.grace_seconds) + POD_END
        due = given_up(pod) or (pod.deleting_since if pod.phase == "Pending" else in_any_case)
        if draft.seen.now >= due:
            draft.act(ForceDeletePod(pod))
        else:
            draft.wake_at(due)


def _say_what_is_left(draft: Draft) -> None:
    attempt, left = draft.attempt, _left(draft.seen)
    if attempt is None or attempt.finished_at is None or attempt.reason is None:
        return
    due = attempt.finished_at + deadlines.KUBERAY_ANSWERS
    said = draft.status.condition(ConditionType.CLUSTER_READY)
    if left is None:
        if said is not None and said.reason in LONG_WAITS:
            draft.condition(ConditionType.CLUSTER_READY, False, attempt.reason)
    elif draft.seen.now >= due:
        draft.condition(ConditionType.CLUSTER_READY, False, *left)
    else:
        draft.wake_at(due)


def _left(seen: Seen) -> tuple[Reason, str] | None:
    """What is left of ended attempts, as reason and message: KubeRay's part first, without which nothing goes."""
    for one in seen.ray_jobs:
        if held_by := ", ".join(name for name in one.finalizers if one.deleting and name.startswith(KUBERAYS)):
            text = f"RayJob {one.name} is deleted, but KubeRay has not removed its finalizer {held_by}"
            return Reason.KUBERAY_SILENT, f"{text}: is KubeRay running, and does it watch this namespace?"
    names = [f"RayJob {one.name}" for one in seen.ray_jobs] + [f"pod {one.name}" for one in seen.pods]
    return (Reason.STOPPING, f"waits for the end of {', '.join(sorted(names))}") if names else None


def _over(written: AttemptStatus, attempt: int) -> bool:
    return written.number == attempt and written.finished_at is not None
