"""Names, labels and owners of the objects that belong to a job."""

from __future__ import annotations

import hashlib
from typing import Any

from finetune_operator.api.job import ATTEMPT, JOB_NAME, JOB_UID, MANAGED_BY, OPERATOR, Job
from finetune_trainer.spec import API_VERSION, KIND

Object = dict[str, Any]
"""A Kubernetes object as JSON."""


def child_name(name: str, uid: str) -> str:
    """Name of what belongs to the whole job; a job of the same name that is created later gets other names."""
    return f"{name}-{hashlib.sha256(uid.encode()).hexdigest()[:5]}"


def attempt_name(name: str, uid: str, number: int) -> str:
    """Name of what belongs to one attempt: at most 47 characters, as KubeRay wants, for numbers below 10,000."""
    return f"{child_name(name, uid)}-{number}"


def service_account(job: Job) -> str:
    """The service account of the job's pods: the manifest's, or one that is made for the job and may do nothing."""
    return job.manifest.spec.service_account_name or child_name(job.name, job.uid)


def job_labels(job: Job) -> dict[str, str]:
    """Labels of everything that belongs to the job."""
    return {MANAGED_BY: OPERATOR, JOB_NAME: job.name, JOB_UID: job.uid}


def attempt_labels(job: Job, number: int) -> dict[str, str]:
    """Labels of everything that belongs to one attempt."""
    return {**job_labels(job), ATTEMPT: str(number)}


def metadata(job: Job, name: str, labels: dict[str, str]) -> Object:
    """Metadata of an object that the job owns: it goes with the job, and holds the job's deletion up for nothing."""
    owner = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": job.name,
        "uid": job.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
    return {"name": name, "namespace": job.namespace, "labels": labels, "ownerReferences": [owner]}
