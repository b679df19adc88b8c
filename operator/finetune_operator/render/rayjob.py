"""The RayJob of one attempt: KubeRay makes the Ray cluster of it and runs the driver on the head."""

from __future__ import annotations

from finetune_operator.api.job import GRACE, QUEUE, Job
from finetune_operator.api.runtime import RuntimeSpec
from finetune_operator.render.lifecycle import grace
from finetune_operator.render.names import Object, attempt_labels, attempt_name, metadata
from finetune_operator.render.places import JOB_DIR
from finetune_operator.render.pods import pod_template
from finetune_operator.render.reporting import Operator
from finetune_operator.render.resources import head_share, ray_start, worker_share
from finetune_trainer.spec import JobSpec

NO_SECOND_HEAD = {"ray.io/disable-provisioned-head-restart": "true"}
"""KubeRay copies it to the RayCluster: a new head would be given the same driver again, beside a new attempt."""

# `exec`: the stop signal must reach the driver once, and a shell in between would end before it.
ENTRYPOINT = f"exec finetune run {JOB_DIR}/job.json --address auto"
GROUP = "workers"


def queue(spec: JobSpec, runtime: RuntimeSpec) -> str | None:
    """Kueue's LocalQueue of the job: the manifest's, else the runtime's."""
    return spec.queue_name or runtime.queue.name


def ray_job(job: Job, runtime: RuntimeSpec, number: int, operator: Operator) -> Object:
    """One attempt; it is never changed, and never repeated by KubeRay."""
    name, waits_in = attempt_name(job.name, job.uid, number), queue(job.manifest.spec, runtime)
    labels = attempt_labels(job, number) | ({QUEUE: waits_in} if waits_in else {})
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {**metadata(job, name, labels), "annotations": {**NO_SECOND_HEAD, GRACE: str(grace(job, runtime))}},
        "spec": {
            "submissionMode": "HTTPMode",
            "jobId": name,  # known beforehand, so that the preStop hook can name the driver to Ray
            "entrypoint": ENTRYPOINT,
            "metadata": {"job": f"{job.namespace}/{job.name}", "uid": job.uid, "attempt": str(number)},
            "backoffLimit": 0,
            "shutdownAfterJobFinishes": True,
            "rayClusterSpec": _cluster(job, runtime, number, operator),
        },
    }


def _cluster(job: Job, runtime: RuntimeSpec, number: int, operator: Operator) -> Object:
    workers = job.manifest.spec.workers
    head, worker = (pod_template(job, runtime, number, operator, role) for role in ("head", "worker"))
    return {
        "rayVersion": runtime.ray_version,
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": False,
        "headGroupSpec": {
            "rayStartParams": {**ray_start(head_share(runtime)), "dashboard-host": "0.0.0.0"},
            "template": head,
        },
        "workerGroupSpecs": [
            {
                "groupName": GROUP,
                "replicas": _at_first(job, runtime),
                "minReplicas": workers.fewest,
                "maxReplicas": workers.replicas,
                "rayStartParams": ray_start(worker_share(job, runtime)),
                "template": worker,
            }
        ],
    }


def _at_first(job: Job, runtime: RuntimeSpec) -> int:
    """Workers that there must be before KubeRay starts the driver; a queue lets a cluster in as a whole."""
    workers = job.manifest.spec.workers
    return workers.replicas if queue(job.manifest.spec, runtime) else workers.fewest
