"""Whether a job may run on a runtime: the runtime's limits, and what only a cluster needs."""

from __future__ import annotations

from collections.abc import Iterator

from finetune_operator.api.runtime import CredentialSource, RuntimeSpec
from finetune_operator.render.rayjob import queue
from finetune_trainer.errors import Problem
from finetune_trainer.spec import FineTuneJob, JobSpec
from finetune_trainer.spec.uri import is_inside


def check_job(manifest: FineTuneJob, runtime: RuntimeSpec) -> list[Problem]:
    """Every reason why this job cannot run on this runtime, by the path in the job's manifest."""
    spec = manifest.spec
    return [
        *_limits(spec, runtime),
        *_credentials(spec, runtime),
        *_queue(spec, runtime),
        *_files(spec, runtime),
    ]


def _limits(spec: JobSpec, runtime: RuntimeSpec) -> Iterator[Problem]:
    workers, limits, name = spec.workers, runtime.limits, spec.runtime_ref.name
    if limits.max_workers is not None and workers.replicas > limits.max_workers:
        message = f"is more than runtime {name} allows: write at most {limits.max_workers} (limits.maxWorkers)"
        yield Problem("spec.workers.replicas", workers.replicas, message)
    gpus = workers.replicas * workers.gpus_per_replica
    if limits.max_gpus is not None and gpus > limits.max_gpus:
        told = f"{workers.replicas} replicas need {gpus} GPUs and runtime {name} allows {limits.max_gpus}"
        message = f"is too much: {told} (limits.maxGpus); write fewer, or fewer replicas"
        yield Problem("spec.workers.gpusPerReplica", workers.gpus_per_replica, message)


def _credentials(spec: JobSpec, runtime: RuntimeSpec) -> Iterator[Problem]:
    given = spec.storage.secret_ref if spec.storage else None
    name, source = spec.runtime_ref.name, runtime.storage.credentials
    if source is CredentialSource.SECRET and given is None:
        message = f"is missing: runtime {name} wants a Secret; write secretRef: {{name: <Secret in this namespace>}}"
        yield Problem("spec.storage.secretRef", None, message)
    if source is CredentialSource.WEB_IDENTITY and given is not None:
        message = f"is refused by runtime {name}, which uses the service account's web identity: remove it"
        yield Problem("spec.storage.secretRef", given.name, message)
    if source is CredentialSource.WEB_IDENTITY and spec.service_account_name is None:
        message = f"is missing: runtime {name} uses web identity; write the service account that has one"
        yield Problem("spec.serviceAccountName", None, message)


def _queue(spec: JobSpec, runtime: RuntimeSpec) -> Iterator[Problem]:
    if runtime.queue.required and queue(spec, runtime) is None:
        name = spec.runtime_ref.name
        message = f"is missing: runtime {name} takes jobs from a queue only; write a LocalQueue of this namespace"
        yield Problem("spec.queueName", None, message)


def _files(spec: JobSpec, runtime: RuntimeSpec) -> Iterator[Problem]:
    """What is written to a pod's own disk goes with the pod; what is read from there may be part of the image."""
    for path, uri in (("spec.checkpoint.uri", spec.checkpoint.uri), ("spec.output.uri", spec.output.uri)):
        if uri.startswith("file://") and not any(is_inside(uri, f"file://{one}") for one in _mounted(runtime)):
            message = "is on the pod's own disk, which goes with the pod: write s3://<bucket>/<key>"
            yield Problem(path, uri, f"{message}, or a path below a volume that the runtime mounts in head and workers")
    store = "s3://<bucket>/<key>"
    read = [("spec.model.uri", spec.model.uri, store)]
    read += [("spec.model.chatTemplate", spec.model.chat_template or "", "the template itself")]
    if start := spec.model.checkpoint:
        read.append(("spec.model.checkpoint.uri", start.uri, store))
    read += [(f"spec.data.train[{index}].uri", source.uri, store) for index, source in enumerate(spec.data.train)]
    read += [(f"spec.data.eval[{index}].uri", source.uri, store) for index, source in enumerate(spec.data.eval)]
    for path, uri, instead in read:
        if uri.startswith("file://./"):
            message = f"is relative to the manifest, which lies in no folder on a cluster: write {instead}"
            yield Problem(path, uri, f"{message}, or an absolute path that the image or a volume of the runtime has")


def _mounted(runtime: RuntimeSpec) -> set[str]:
    """Paths at which the runtime mounts something in the head, where a job is checked, and in the workers."""
    head, worker = (
        {str(mount.get("mountPath", "")).rstrip("/") for mount in options.container.get("volumeMounts") or []}
        for options in (runtime.head, runtime.worker)
    )
    return (head & worker) - {""}
