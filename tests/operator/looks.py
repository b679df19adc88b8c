"""Builds one look at a job (`Seen`) for tests of policy: what is there, what was told, and when."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_operator.api.job import FINALIZER, Job, read_job
from finetune_operator.api.report import Failure, Report
from finetune_operator.api.status import JobStatus, Progress
from finetune_operator.observe import PodView, RayJobView
from finetune_operator.policy.seen import Obstacle, Seen

T0 = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
UID = "3f0c6b1e-0000-4000-8000-000000000001"


def after(seconds: float) -> datetime:
    """So many seconds after the job was created."""
    return T0 + timedelta(seconds=seconds)


def manifest(**spec: Any) -> dict[str, Any]:
    """A job of two workers; `spec` replaces members."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "support-bot", "namespace": "team-a"},
        "spec": {
            "model": {"uri": "s3://models/tiny"},
            "method": {"type": "LoRA"},
            "objective": {"type": "SFT"},
            "data": {"train": [{"uri": "s3://data/train.jsonl"}], "maxLength": 64},
            "training": {"maxSteps": 100, "globalBatchSize": 4, "learningRate": 1.0e-3},
            "checkpoint": {"uri": "s3://ckpt/support-bot", "everySteps": 10},
            "output": {"uri": "s3://models/support-bot"},
            "workers": {"replicas": 2, "gpusPerReplica": 0},
            **spec,
        },
    }


def make_job(status: JobStatus | None = None, *, deleted: datetime | None = None, **spec: Any) -> Job:
    """The job as the API server holds it, with the finalizer."""
    found = manifest(**spec)
    stamp = T0.strftime("%Y-%m-%dT%H:%M:%SZ")
    found["metadata"] |= {"uid": UID, "generation": 1, "resourceVersion": "1", "creationTimestamp": stamp}
    job = read_job(found)
    return replace(job, status=status or JobStatus(), deleted=deleted, finalizers=(FINALIZER,))


def ray_job(attempt: int = 1, **changes: Any) -> RayJobView:
    """An attempt's RayJob that is running."""
    view = RayJobView(
        name=f"support-bot-abcde-{attempt}",
        uid=f"ray-{attempt}",
        attempt=attempt,
        created=T0,
        deleting=False,
        suspended=False,
        ray_status="RUNNING",
        deployment="Running",
        reason="",
        message="",
    )
    return replace(view, **changes)


def pod(role: str = "worker", attempt: int = 1, number: int = 0, **changes: Any) -> PodView:
    """A pod of an attempt that is running and ready."""
    view = PodView(
        name=f"{role}-{attempt}-{number}",
        uid=f"pod-{role}-{attempt}-{number}",
        attempt=attempt,
        role=role,
        created=T0,
        phase="Running",
        ready=True,
        node="node-1",
        deleting_since=None,
        grace_seconds=0,
        unschedulable=None,
        waiting=None,
        ended=None,
        reason="",
        message="",
        disruption=None,
    )
    return replace(view, **changes)


def pods(attempt: int = 1) -> tuple[PodView, ...]:
    """Head and two workers, all ready."""
    return (pod("head", attempt), pod(attempt=attempt, number=0), pod(attempt=attempt, number=1))


def heard(attempt: int = 1, at: datetime = T0, step: int = 1, failure: Failure | None = None, **more: Any) -> Report:
    """Reports of an attempt up to a step."""
    return Report(attempt, at, progress=Progress(step=step, updated_at=at), failure=failure, **more)


@dataclass
class World:
    """Objects around one job, changed by hand and by the decisions that a test carries out."""

    job: Job = field(default_factory=make_job)
    ray_jobs: dict[int, RayJobView] = field(default_factory=dict)
    pods: tuple[PodView, ...] = ()
    heard: Report | None = None
    obstacle: Obstacle | None = None
    now: datetime = T0

    def seen(self) -> Seen:
        """One look."""
        return Seen(self.job, tuple(self.ray_jobs.values()), self.pods, self.heard, self.obstacle, self.now, T0)

    def write(self, status: JobStatus) -> None:
        """The status as the API server gives it back."""
        text = status.model_dump_json(exclude_none=True)
        self.job = replace(self.job, status=JobStatus.model_validate_json(text))

    def change(self, **spec: Any) -> None:
        """Another spec, with the next generation."""
        found: Mapping[str, Any] = json.loads(self.job.manifest.model_dump_json(exclude_none=True))
        changed = make_job(self.job.status, **{**found["spec"], **spec})
        self.job = replace(changed, generation=self.job.generation + 1, deleted=self.job.deleted)
