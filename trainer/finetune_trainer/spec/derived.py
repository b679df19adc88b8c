"""What follows from a job: ranks, run id, the manifest as data, absolute paths, fields without effect here."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_trainer.spec.job import FineTuneJob, JobSpec
from finetune_trainer.spec.model import Model
from finetune_trainer.spec.uri import absolute_uri

CLUSTER_ONLY = (
    "storage",
    "hub",
    "serviceAccountName",
    "runtimeRef",
    "queueName",
    "priorityClassName",
    "workers.minReplicas",
    "workers.resources",
    "failurePolicy.maxAttempts",
    "failurePolicy.rules",
    "activeDeadlineSeconds",
    "terminationGracePeriodSeconds",
    "ttlSecondsAfterFinished",
    "suspend",
)


def ranks(job: FineTuneJob) -> int:
    """World size that the manifest asks for: replicas x max(1, gpusPerReplica)."""
    return job.spec.workers.replicas * job.spec.workers.ranks_per_replica


def run_id(job: FineTuneJob) -> str:
    """Folder of the run below `checkpoint.uri`: the uid on a cluster, `<namespace>.<name>` without one."""
    metadata = job.metadata
    return metadata.uid or f"{metadata.namespace}.{metadata.name}"


def logs_uri(job: FineTuneJob) -> str:
    """Folder of what the run's processes wrote; that of one attempt is below it, named by its number."""
    return f"{job.spec.checkpoint.uri.removesuffix('/')}/{run_id(job)}/logs"


def to_manifest(job: FineTuneJob) -> dict[str, Any]:
    """The whole job by its manifest names, with every default, ready for JSON or YAML; parses to an equal job."""
    return job.model_dump(mode="json", exclude_none=True)


def with_absolute_paths(job: FineTuneJob, base: Path) -> FineTuneJob:
    """The same job with each `file://./x` made absolute; `base` is the manifest's folder."""
    spec = job.spec
    globs = Path(glob.escape(str(base.resolve())))  # a bracket in the folder's own name is no glob
    train = tuple(s.model_copy(update={"uri": absolute_uri(s.uri, globs)}) for s in spec.data.train)
    held_out = tuple(s.model_copy(update={"uri": absolute_uri(s.uri, globs)}) for s in spec.data.eval)
    parts = {
        "model": _absolute_model(spec.model, base.resolve()),
        "data": spec.data.model_copy(update={"train": train, "eval": held_out}),
        "checkpoint": spec.checkpoint.model_copy(update={"uri": absolute_uri(spec.checkpoint.uri, base.resolve())}),
        "output": spec.output.model_copy(update={"uri": absolute_uri(spec.output.uri, base.resolve())}),
    }
    return job.model_copy(update={"spec": spec.model_copy(update=parts)})


def _absolute_model(model: Model, base: Path) -> Model:
    text, start, adapter = model.chat_template, model.checkpoint, model.adapter
    update = {
        "uri": absolute_uri(model.uri, base),
        "chat_template": text and absolute_uri(text, base),
        "adapter": adapter and adapter.model_copy(update={"uri": absolute_uri(adapter.uri, base)}),
        "checkpoint": start and start.model_copy(update={"uri": absolute_uri(start.uri, base)}),
    }
    return model.model_copy(update=update)


def ignored_locally(job: FineTuneJob) -> list[str]:
    """Paths of the fields that the manifest gives and that have an effect only on a cluster."""
    return [f"spec.{path}" for path in CLUSTER_ONLY if path in _given(job.spec)]


def _given(spec: JobSpec) -> set[str]:
    return set(_given_paths(spec.model_dump(mode="json", exclude_unset=True, exclude_none=True)))


def _given_paths(members: dict[str, Any]) -> Iterator[str]:
    for name, member in members.items():
        yield name
        if isinstance(member, dict):
            yield from (f"{name}.{field}" for field in member)
