"""What the API server's objects say, as values that policy decides on: the attempt's RayJob and its pods. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_operator.api.job import ATTEMPT, GRACE, JOB_UID, QUEUE, ROLE
from finetune_operator.workload import WorkloadView

Object = Mapping[str, Any]

RAY_CONTAINER = 0
"""KubeRay's rule: Ray runs in the pod's first container."""

CANNOT_RUN = (126, 127, 128)
"""Exit codes of a container whose program is not there or cannot be executed."""

SUCCEEDED, FAILED, STOPPED = "SUCCEEDED", "FAILED", "STOPPED"
RAY_TERMINAL = (SUCCEEDED, FAILED, STOPPED)
DEPLOYMENT_TERMINAL = ("Complete", "Failed", "ValidationFailed")

REPLICA_FAILURE = ("ReplicaFailure", "True")
"""Type and status of the condition of a RayCluster whose pods cannot be created or deleted."""


@dataclass(frozen=True)
class RayJobView:
    """One attempt's RayJob. `ray_status` is Ray's word for the driver, `deployment` KubeRay's for the whole.

    `queue` is Kueue's LocalQueue, `workload` what Kueue says of it where that is known. `refused` is why the API server
    does not let KubeRay create a pod of its cluster; `finalizers` keep it after its deletion; `grace_seconds` is what
    its pods have to commit when they are stopped. `cluster` is its RayCluster, which wants `wanted_workers`.
    """

    name: str
    uid: str
    attempt: int
    created: datetime
    deleting: bool
    suspended: bool
    ray_status: str
    deployment: str
    reason: str
    message: str
    queue: str | None = None
    workload: WorkloadView | None = None
    refused: str | None = None
    finalizers: tuple[str, ...] = ()
    grace_seconds: int | None = None
    cluster: str = ""
    wanted_workers: int | None = None

    @property
    def over(self) -> bool:
        """Whether it will not run any more."""
        return self.ray_status in RAY_TERMINAL or self.deployment in DEPLOYMENT_TERMINAL


@dataclass(frozen=True)
class PodView:
    """A pod of an attempt.

    `waiting` (reason, message) and `ended` (exit code, reason) speak of its containers; one that ended, at `ended_at`,
    may have been started again; `last_words` are the end of what it had printed. `disruption` is the reason of the
    condition DisruptionTarget: why the pod is to go. `cut_off_since` is since when its node does not answer.
    """

    name: str
    uid: str
    attempt: int
    role: str
    created: datetime
    phase: str
    ready: bool
    node: str | None
    deleting_since: datetime | None
    grace_seconds: int
    unschedulable: str | None
    waiting: tuple[str, str] | None
    ended: tuple[int, str] | None
    reason: str
    message: str
    disruption: str | None
    ended_at: datetime | None = None
    last_words: str = ""
    cut_off_since: datetime | None = None

    @property
    def is_head(self) -> bool:
        """Whether the driver runs here."""
        return self.role == "head"

    @property
    def gone(self) -> bool:
        """Whether its processes have ended."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def ended_by_itself(self) -> bool:
        """Whether it is a head whose Ray has ended, which nobody starts again and KubeRay deletes, or did already."""
        if not self.is_head or self.ended is None:
            return False
        before = self.deleting_since is None or (self.ended_at is not None and self.ended_at < self.deleting_since)
        return before or self.ended[0] in CANNOT_RUN  # within the same second, as times go

    @property
    def started(self) -> bool:
        """Whether it has been running."""
        return self.phase == "Running" or self.gone


def read_ray_job(found: Object, workload: WorkloadView | None = None) -> RayJobView | None:
    """The view of a RayJob; None for one that no job of ours made."""
    metadata, spec, status = found["metadata"], found.get("spec") or {}, found.get("status") or {}
    attempt = _count((metadata.get("labels") or {}).get(ATTEMPT, ""))
    if attempt is None:
        return None
    failure = _replica_failure(found)
    return RayJobView(
        name=metadata["name"],
        uid=metadata["uid"],
        attempt=attempt,
        created=_time(metadata["creationTimestamp"]),
        deleting="deletionTimestamp" in metadata,
        suspended=bool(spec.get("suspend")),
        ray_status=status.get("jobStatus", ""),
        deployment=status.get("jobDeploymentStatus", ""),
        reason=status.get("reason", ""),
        message=status.get("message", ""),
        queue=(metadata.get("labels") or {}).get(QUEUE),
        workload=workload,
        refused=None if failure is None else _refusal(failure),
        finalizers=tuple(metadata.get("finalizers") or ()),
        grace_seconds=_count((metadata.get("annotations") or {}).get(GRACE, "")),
        cluster=status.get("rayClusterName", ""),
        wanted_workers=(status.get("rayClusterStatus") or {}).get("desiredWorkerReplicas"),
    )


def read_pod(found: Object) -> PodView | None:
    """The view of a pod; None for one that belongs to no attempt of ours."""
    metadata, status = found["metadata"], found.get("status") or {}
    labels = metadata.get("labels") or {}
    attempt, role = _count(labels.get(ATTEMPT, "")), labels.get(ROLE)
    if attempt is None or role is None:
        return None
    conditions = {one["type"]: one for one in status.get("conditions") or ()}
    container = (status.get("containerStatuses") or [{}])[RAY_CONTAINER]
    ended = (container.get("state") or {}).get("terminated") or (container.get("lastState") or {}).get("terminated")
    return PodView(
        name=metadata["name"],
        uid=metadata["uid"],
        attempt=attempt,
        role=role,
        created=_time(metadata["creationTimestamp"]),
        phase=status.get("phase", "Pending"),
        ready=conditions.get("Ready", {}).get("status") == "True",
        node=(found.get("spec") or {}).get("nodeName"),
        deleting_since=_deleting_since(metadata),
        grace_seconds=metadata.get("deletionGracePeriodSeconds") or 0,
        unschedulable=_unschedulable(conditions),
        waiting=_waiting(status),
        ended=(int(ended.get("exitCode", 1)), str(ended.get("reason", ""))) if ended else None,
        reason=status.get("reason", ""),
        message=status.get("message", ""),
        disruption=_disruption(conditions),
        ended_at=_time(ended["finishedAt"]) if ended and ended.get("finishedAt") else None,
        last_words=str((ended or {}).get("message", "")),
        cut_off_since=_cut_off_since(conditions),
    )


def of_attempt(pods: Iterable[PodView], attempt: int) -> tuple[PodView, ...]:
    """The pods of one attempt."""
    return tuple(pod for pod in pods if pod.attempt == attempt)


def _replica_failure(ray_job: Object) -> Object | None:
    """KubeRay's word that a pod of the cluster could not be created, if that is how it stands."""
    cluster = (ray_job.get("status") or {}).get("rayClusterStatus") or {}
    failures = (one for one in cluster.get("conditions") or () if (one["type"], one["status"]) == REPLICA_FAILURE)
    return next((one for one in failures if str(one.get("reason", "")).startswith("FailedCreate")), None)


def owner_uid(found: Object) -> str:
    """The uid of the job that an object belongs to, from its label; empty without one."""
    return str((found["metadata"].get("labels") or {}).get(JOB_UID, ""))


def labelled(found: Object) -> list[str]:
    """The job whose label an object has. Anybody can write it, so it counts in the object's own namespace only."""
    return [belonging(found["metadata"]["namespace"], owner_uid(found))]


def controlled(found: Object) -> list[str]:
    """The same for what the operator made itself, of which the job is the controller too."""
    owners = found["metadata"].get("ownerReferences") or ()
    controllers = [one["uid"] for one in owners if one.get("controller")]
    return labelled(found) if controllers == [owner_uid(found)] else []


def belonging(namespace: str, uid: str) -> str:
    """The key of what belongs to a job."""
    return f"{namespace}/{uid}"


def _refusal(failure: Object) -> str:
    """The API server's words, which come after a line with KubeRay's own."""
    lines = str(failure.get("message", "")).splitlines()
    return "; ".join(line for line in lines if line != failure["reason"]) or str(failure["reason"])


def _count(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _deleting_since(metadata: Object) -> datetime | None:
    """The API server sets the timestamp to when the grace is over, so the grace is taken off again."""
    text = metadata.get("deletionTimestamp")
    if text is None:
        return None
    end = _time(text).timestamp() - (metadata.get("deletionGracePeriodSeconds") or 0)
    return datetime.fromtimestamp(end, tz=_time(text).tzinfo)


def _unschedulable(conditions: Mapping[str, Object]) -> str | None:
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        return str(scheduled.get("message", ""))
    return None


def _waiting(status: Object) -> tuple[str, str] | None:
    """Reason and message of the first container, init containers included, that waits for more than its turn."""
    for one in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (one.get("state") or {}).get("waiting")
        if waiting and waiting.get("reason") not in (None, "PodInitializing", "ContainerCreating"):
            return waiting["reason"], waiting.get("message", "")
    return None


def _cut_off_since(conditions: Mapping[str, Object]) -> datetime | None:
    """Since when Kubernetes' node controller calls a pod unready that was ready: it gives no reason, a kubelet does."""
    ready = conditions.get("Ready", {})
    silent = ready.get("status") == "False" and not ready.get("reason") and ready.get("lastTransitionTime")
    return _time(ready["lastTransitionTime"]) if silent else None


def _disruption(conditions: Mapping[str, Object]) -> str | None:
    target = conditions.get("DisruptionTarget", {})
    return str(target.get("reason", "")) if target.get("status") == "True" else None
