"""What a job has besides its cluster: a service account without rights, and how many pods may be evicted at a time."""

from __future__ import annotations

from finetune_operator.api.job import JOB_UID, Job
from finetune_operator.render.names import Object, child_name, job_labels, metadata


def owned(job: Job, name: str) -> Object:
    """Metadata of something that belongs to the whole job."""
    return metadata(job, name, job_labels(job))


def service_account_object(job: Job) -> Object | None:
    """An account that is bound to nothing; None when the manifest names one."""
    if job.manifest.spec.service_account_name:
        return None
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": owned(job, child_name(job.name, job.uid)),
        "automountServiceAccountToken": False,
    }


def disruption_budget(job: Job) -> Object:
    """One voluntary eviction at a time, and only while all pods are up.

    The run commits and ends as a whole for one evicted pod, so a drain always gets on; a budget of 0 would block it
    for ever. While an attempt starts, its ready pods are left alone (until startDeadlineSeconds), so that a cluster
    that is upgraded node by node does not chase it around. Pods that are not ready may always be evicted.
    It is `minAvailable`, because RayClusters have no scale subresource, without which Kubernetes cannot know what
    `maxUnavailable` is of, and would allow no eviction at all.
    """
    workers = job.manifest.spec.workers
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": owned(job, child_name(job.name, job.uid)),
        "spec": {
            "minAvailable": workers.fewest,  # of these and the head
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": {JOB_UID: job.uid}},
        },
    }
