"""Volumes of the pods and where they are mounted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from finetune_operator.api.job import Job
from finetune_operator.api.runtime import RuntimeSpec
from finetune_operator.render.lifecycle import Role
from finetune_operator.render.names import Object
from finetune_operator.render.places import (
    HOME,
    JOB_DIR,
    MODEL_CACHE,
    SCRATCH,
    SHARED_MEMORY,
    STORAGE_CA_DIR,
    TEMPORARY,
    TOKEN_DIR,
    WEB_IDENTITY_DIR,
)
from finetune_operator.render.reporting import Operator, audience
from finetune_operator.render.resources import head_share, shared_memory, worker_share
from finetune_operator.render.storage import token_source, web_identity

TOKEN_SECONDS = 3600
"""Life of a token; the kubelet renews it after four fifths of that."""

JOB_VOLUME, TOKEN_VOLUME, STORAGE_TOKEN_VOLUME = "finetune-job", "finetune-token", "finetune-storage-token"
CACHE_VOLUME = "finetune-models"
KEPT_VOLUMES = frozenset({JOB_VOLUME, TOKEN_VOLUME, STORAGE_TOKEN_VOLUME, CACHE_VOLUME})
"""Volumes that a runtime may not replace."""

SHARED_MEMORY_VOLUME, TEMPORARY_VOLUME, HOME_VOLUME, SCRATCH_VOLUME = "shared-memory", "tmp", "home", "scratch"
"""Volumes that a runtime may replace, for instance scratch by a disk of the node."""

OWN_VOLUMES = frozenset({SHARED_MEMORY_VOLUME, TEMPORARY_VOLUME, HOME_VOLUME, SCRATCH_VOLUME})


@dataclass(frozen=True)
class Mount:
    """One volume at one path of the Ray container."""

    name: str
    path: str
    source: Object
    read_only: bool = False

    def volume(self) -> Object:
        """The entry in the pod's `volumes`."""
        return {"name": self.name, **self.source}

    def volume_mount(self) -> Object:
        """The entry in the container's `volumeMounts`."""
        return {"name": self.name, "mountPath": self.path, **({"readOnly": True} if self.read_only else {})}


def mounts(job: Job, runtime: RuntimeSpec, config: str, operator: Operator, role: Role) -> Iterator[Mount]:
    """Everything mounted into a pod; `config` is the name of the attempt's ConfigMap."""
    yield Mount(JOB_VOLUME, JOB_DIR, {"configMap": {"name": config}}, read_only=True)
    if role == "head":
        token = {"path": "token", "audience": audience(operator, job.uid), "expirationSeconds": TOKEN_SECONDS}
        sources = [{"serviceAccountToken": token}]
        yield Mount(TOKEN_VOLUME, TOKEN_DIR, {"projected": {"sources": sources}}, read_only=True)
    if runtime.storage.ca_config_map:
        found = runtime.storage.ca_config_map
        items = [{"key": found.key, "path": "ca.crt"}]
        yield Mount("storage-ca", STORAGE_CA_DIR, {"configMap": {"name": found.name, "items": items}}, read_only=True)
    if (identity := web_identity(job, runtime)) is not None:
        yield Mount(STORAGE_TOKEN_VOLUME, WEB_IDENTITY_DIR, token_source(identity, TOKEN_SECONDS), read_only=True)
    if runtime.model_cache is not None and role == "worker":
        yield Mount(CACHE_VOLUME, MODEL_CACHE, dict(runtime.model_cache.volume))
    share = head_share(runtime) if role == "head" else worker_share(job, runtime)
    memory = {"medium": "Memory", "sizeLimit": shared_memory(share, runtime)}
    yield Mount(SHARED_MEMORY_VOLUME, SHARED_MEMORY, {"emptyDir": memory})
    yield Mount(TEMPORARY_VOLUME, TEMPORARY, {"emptyDir": {}})
    yield Mount(HOME_VOLUME, HOME, {"emptyDir": {}})
    yield Mount(SCRATCH_VOLUME, SCRATCH, {"emptyDir": {}})
