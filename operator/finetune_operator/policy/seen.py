"""Everything that a decision about one job is made on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from finetune_operator.api.attempt import AttemptStatus
from finetune_operator.api.job import Job
from finetune_operator.api.reasons import Reason
from finetune_operator.api.report import Report
from finetune_operator.observe import PodView, RayJobView, of_attempt


@dataclass(frozen=True)
class Obstacle:
    """Why no attempt may start now, found outside of the job itself: the runtime, a limit."""

    reason: Reason
    message: str
    position: int | None = None


@dataclass(frozen=True)
class Seen:
    """One look at the job, its attempts and what it told; `since` is when this operator began to listen.

    `obstacle` is None when an attempt may start.
    """

    job: Job
    ray_jobs: tuple[RayJobView, ...]
    pods: tuple[PodView, ...]
    heard: Report | None
    obstacle: Obstacle | None
    now: datetime
    since: datetime

    def ray_job(self, attempt: int) -> RayJobView | None:
        """The RayJob of an attempt, if it is there."""
        return next((one for one in self.ray_jobs if one.attempt == attempt), None)

    def pods_of(self, attempt: int) -> tuple[PodView, ...]:
        """The pods of an attempt that are there."""
        return of_attempt(self.pods, attempt)

    def heard_of(self, attempt: AttemptStatus) -> Report | None:
        """What this attempt told; an older one's last words do not count for it."""
        return self.heard if self.heard is not None and self.heard.attempt == attempt.number else None

    def asked_to_stop(self, attempt: AttemptStatus) -> Reason | None:
        """Why the operator wants this attempt to stop, if it does; a run may hear of it before the status says so."""
        asked = self.job.status.stop
        if asked is not None and asked.attempt == attempt.number:
            return asked.reason
        if self.job.deleted is not None:
            return Reason.DELETED
        return Reason.SUSPENDED if self.job.manifest.spec.suspend else None
