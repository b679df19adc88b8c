"""What a decision asks of the API server; `reconcile` carries it out in this order, then writes the status."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from finetune_operator.api.status import JobStatus
from finetune_operator.observe import PodView, RayJobView


@dataclass(frozen=True)
class AddFinalizer:
    """Hold the job back when it is deleted; before anything is created."""


@dataclass(frozen=True)
class RemoveFinalizer:
    """Let a deleted job go."""


@dataclass(frozen=True)
class CreateAttempt:
    """Create the objects of an attempt; what exists already and is this job's is as good as created."""

    number: int


@dataclass(frozen=True)
class DeleteRayJob:
    """Delete an attempt's RayJob, and with it its cluster."""

    ray_job: RayJobView


@dataclass(frozen=True)
class ForceDeletePod:
    """Delete a pod whose node does not answer, without waiting for the node."""

    pod: PodView


@dataclass(frozen=True)
class DeleteJob:
    """Delete the finished job itself."""


Action = AddFinalizer | RemoveFinalizer | CreateAttempt | DeleteRayJob | ForceDeletePod | DeleteJob


@dataclass(frozen=True)
class Decision:
    """What to do now, what to write down, and when to look again without any change (None: only then)."""

    status: JobStatus
    actions: tuple[Action, ...] = ()
    wake_after: timedelta | None = None
