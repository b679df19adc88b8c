"""Environment variables of the pods: Ray's settings, where files go, the store, and credentials by reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from finetune_operator.api.job import Job
from finetune_operator.api.runtime import RuntimeSpec
from finetune_operator.render.lifecycle import Role, stop_variables
from finetune_operator.render.memory import gpu_memory
from finetune_operator.render.names import Object
from finetune_operator.render.places import HOME, MODEL_CACHE, SCRATCH, TEMPORARY
from finetune_operator.render.reporting import Operator, report_variables
from finetune_operator.render.resources import worker_share
from finetune_operator.render.storage import store_variables
from finetune_trainer.spec.quantity import memory_bytes

PLACES = {
    "HOME": HOME,
    "USER": "finetune",  # torch asks for it, and the image need not know the user's number
    "TMPDIR": TEMPORARY,
    "FINETUNE_STATE_DIR": f"{SCRATCH}/state",
    "FINETUNE_WORKDIR": f"{SCRATCH}/work",
    "FINETUNE_CONTAINER_LOG": "/proc/1/fd/1",  # what `kubectl logs` shows; Ray's processes write to files
}

# The first six are what `finetune run` sets for itself; here they reach the workers' processes too.
RAY = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # ranks are what the pod is for; with Ray's 15 they yield to its dashboard
    "RAY_memory_usage_threshold": "0.98",  # of the container's limit; at Ray's 0.95 a large pod wastes gigabytes
}

ACCESS_KEYS = (("AWS_ACCESS_KEY_ID", False), ("AWS_SECRET_ACCESS_KEY", False), ("AWS_SESSION_TOKEN", True))
"""Keys of the tenant's Secret, and whether a Secret may lack them."""

MLFLOW_KEYS = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
"""A Secret for MLflow has the first, or the two others: none of them must be there."""

WANDB_KEY = "WANDB_API_KEY"


def environment(job: Job, runtime: RuntimeSpec, number: int, operator: Operator, role: Role) -> list[Object]:
    """The container's `env`."""
    plain = {**PLACES, **RAY, **store_variables(job, runtime, number), **stop_variables(job, runtime, role)}
    if role == "head":
        plain |= {"FINETUNE_ATTEMPT": str(number), "FINETUNE_RAY_VERSION": runtime.ray_version}
        plain |= report_variables(job, operator) | _gpu(runtime)
    else:
        plain |= {"OMP_NUM_THREADS": str(worker_share(job, runtime).threads), **_cache(runtime)}
    return [*_values(plain), *_secrets(job), *(_tracker_secrets(job) if role != "head" else ())]


def _values(variables: Mapping[str, str]) -> Iterator[Object]:
    for name, value in variables.items():
        yield {"name": name, "value": value}


def _cache(runtime: RuntimeSpec) -> dict[str, str]:
    if runtime.model_cache is None:
        return {}
    return {"FINETUNE_CACHE_DIR": MODEL_CACHE, "FINETUNE_CACHE_BYTES": str(memory_bytes(runtime.model_cache.size))}


def _gpu(runtime: RuntimeSpec) -> dict[str, str]:
    """What the head estimates by: it has no GPU to ask."""
    memory = gpu_memory(runtime)
    if memory is None:
        return {}
    product = {"FINETUNE_GPU_PRODUCT": runtime.gpu.product} if runtime.gpu.product else {}
    return {"FINETUNE_GPU_MEMORY": str(memory), **product}


def _secrets(job: Job) -> Iterator[Object]:
    """The tenant's Secrets, named and never read: the kubelet puts their values into the pods."""
    spec = job.manifest.spec
    if spec.storage and spec.storage.secret_ref:
        for key, optional in ACCESS_KEYS:
            yield _from_secret(key, spec.storage.secret_ref.name, key, optional)
    if spec.hub and spec.hub.token_secret_ref:
        yield _from_secret("HF_TOKEN", spec.hub.token_secret_ref.name, spec.hub.token_secret_ref.key, False)


def _tracker_secrets(job: Job) -> Iterator[Object]:
    """What trackers log in with: rank 0 speaks to them, and it runs in any of the workers."""
    trackers = job.manifest.spec.trackers
    if trackers is None:
        return
    if trackers.mlflow is not None and trackers.mlflow.secret_ref is not None:
        for key in MLFLOW_KEYS:
            yield _from_secret(key, trackers.mlflow.secret_ref.name, key, True)
    if trackers.wandb is not None and trackers.wandb.secret_ref is not None:
        yield _from_secret(WANDB_KEY, trackers.wandb.secret_ref.name, WANDB_KEY, False)


def _from_secret(variable: str, secret: str, key: str, optional: bool) -> Object:
    reference: dict[str, Any] = {"name": secret, "key": key}
    if optional:
        reference["optional"] = True
    return {"name": variable, "valueFrom": {"secretKeyRef": reference}}
