"""What a decision asks of the API server; `reconcile` carries it out in this order, then writes the status.

As text, for the log, an action names objects and nothing that a run prints: that may be a record of its data.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from finetune_operator.api.status import JobStatus
from finetune_operator.observe import PodView, RayJobView


@dataclass(frozen=True)
class AddFinalizer:
    """Hold the job back when it is deleted; before anything is created."""

    def __str__(self) -> str:
        return "adding the finalizer"


@dataclass(frozen=True)
class RemoveFinalizer:
    """Let a deleted job go."""

    def __str__(self) -> str:
        return "removing the finalizer"


@dataclass(frozen=True)
class CreateAttempt:
    """Create the objects of an attempt; what exists already and is this job's is as good as created."""

    number: int

    def __str__(self) -> str:
        return f"creating attempt {self.number}"


@dataclass(frozen=True)
class DeleteRayJob:
    """Delete an attempt's RayJob, and with it its cluster."""

    ray_job: RayJobView

    def __str__(self) -> str:
        return f"deleting RayJob {self.ray_job.name}"


@dataclass(frozen=True)
class ScaleCluster:
    """Let the cluster of an attempt have so many worker pods."""

    ray_job: RayJobView
    workers: int

    def __str__(self) -> str:
        return f"scaling RayCluster {self.ray_job.cluster} to {self.workers} workers"


@dataclass(frozen=True)
class ForceDeletePod:
    """Delete a pod whose node does not answer, without waiting for the node."""

    pod: PodView

    def __str__(self) -> str:
        return f"deleting pod {self.pod.name} by force"


@dataclass(frozen=True)
class DeleteJob:
    """Delete the finished job itself."""

    def __str__(self) -> str:
        return "deleting the finished job"


Action = AddFinalizer | RemoveFinalizer | CreateAttempt | DeleteRayJob | ScaleCluster | ForceDeletePod | DeleteJob


@dataclass(frozen=True)
class Decision:
    """What to do now, what to write down, and when to look again without any change (None: only then)."""

    status: JobStatus
    actions: tuple[Action, ...] = ()
    wake_after: timedelta | None = None
