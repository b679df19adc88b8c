"""A FineTuneJob as the API server holds it: the manifest that the trainer reads too, and what the cluster adds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_operator.api.status import JobStatus
from finetune_trainer.spec import FineTuneJob, parse_job

GROUP = "finetune.dev"
FINALIZER = f"{GROUP}/graceful-stop"
"""Holds a deleted job until its run has committed, or its deadline has passed, and its pods are gone."""

MANAGED_BY = "app.kubernetes.io/managed-by"
OPERATOR = "finetune-operator"
JOB_NAME = f"{GROUP}/job"
JOB_UID = f"{GROUP}/job-uid"
ATTEMPT = f"{GROUP}/attempt"
ROLE = f"{GROUP}/role"
"""Labels of everything that belongs to a job: MANAGED_BY is OPERATOR, ROLE of pods is `head` or `worker`."""


@dataclass(frozen=True)
class Job:
    """One FineTuneJob: `manifest` is the validated spec, the rest what the API server and the operator added.

    `generation` counts changes of the spec. `deleted` is when deletion was asked for. Times are aware and in UTC.
    """

    manifest: FineTuneJob
    namespace: str
    name: str
    uid: str
    generation: int
    resource_version: str
    created: datetime
    deleted: datetime | None
    finalizers: tuple[str, ...]
    status: JobStatus

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        return self.namespace, self.name


def read_job(found: Mapping[str, Any]) -> Job:
    """Read an object of the API server. Raises finetune_trainer.errors.SpecError for a spec that only older rules let
    pass, and pydantic's ValidationError for a status that nobody but the operator can have written."""
    metadata = found["metadata"]
    deleted = metadata.get("deletionTimestamp")
    return Job(
        manifest=parse_job(json.dumps(found)),
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        generation=metadata.get("generation", 1),
        resource_version=metadata["resourceVersion"],
        created=datetime.fromisoformat(metadata["creationTimestamp"]),
        deleted=None if deleted is None else datetime.fromisoformat(deleted),
        finalizers=tuple(metadata.get("finalizers") or ()),
        status=JobStatus.model_validate_json(json.dumps(found.get("status") or {})),
    )
