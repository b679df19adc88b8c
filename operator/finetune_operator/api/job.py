"""A FineTuneJob as the API server holds it: the manifest that the trainer reads too, and what the cluster adds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from finetune_operator.api.status import JobStatus
from finetune_trainer.errors import SpecError
from finetune_trainer.spec import FineTuneJob
from finetune_trainer.spec.check import check_document
from finetune_trainer.spec.overrides import ALLOWED

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

GRACE = f"{GROUP}/grace-seconds"
"""Annotation of a RayJob: how long its run may take to commit when it is stopped."""

QUEUE = "kueue.x-k8s.io/queue-name"
"""Kueue's label of what waits in one of its LocalQueues."""


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


READ_OF_METADATA = ("name", "namespace", "uid")
"""Labels and annotations are for others, who may write more of them than a manifest may hold."""

NEWER = "is in the definitions and not known to this operator, which is older: upgrade the operator"


def read_job(found: Mapping[str, Any]) -> Job:
    """Read an object of the API server. Raises finetune_trainer.errors.SpecError for a spec that only older rules let
    pass, or that has fields which only newer definitions have: they would have no effect. A job that has had an attempt
    is read without them, because definitions that are renewed write their defaults into running jobs too."""
    metadata = found["metadata"]
    deleted = metadata.get("deletionTimestamp")
    status = JobStatus.model_validate_json(json.dumps(found.get("status") or {}), extra="ignore")
    return Job(
        manifest=_manifest(found, started=bool(status.attempts)),
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        generation=metadata.get("generation", 1),
        resource_version=metadata["resourceVersion"],
        created=datetime.fromisoformat(metadata["creationTimestamp"]),
        deleted=None if deleted is None else datetime.fromisoformat(deleted),
        finalizers=tuple(metadata.get("finalizers") or ()),
        status=status,
    )


def _manifest(found: Mapping[str, Any], *, started: bool) -> FineTuneJob:
    document = {**found, "metadata": {name: found["metadata"][name] for name in READ_OF_METADATA}}
    try:
        return check_document(document)
    except SpecError as error:
        known = check_document({**document, "spec": _known_options(found["spec"])}, unknown="ignore")
        if started:
            return known
        raise SpecError([replace(problem, message=NEWER) for problem in error.problems]) from None


def _known_options(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec without options of DeepSpeed that only a newer operator knows: they are fields of the definition too."""
    deepspeed = spec.get("deepspeed") or {}
    options = {name: value for name, value in (deepspeed.get("overrides") or {}).items() if name in ALLOWED}
    return {**spec, "deepspeed": {**deepspeed, "overrides": options}}
