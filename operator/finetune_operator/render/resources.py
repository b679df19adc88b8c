"""What a pod gets from Kubernetes, and what Ray is told that its node has.

Ray places ranks by what the nodes announce, and the trainer asks for each rank (finetune_trainer.launch.ray_train,
`resources_per_worker`): one GPU if there are any, and an equal part of the pod's cores, rounded up to whole ones, or
one core where the job does not say how many. What is announced here lets max(1, gpusPerReplica) ranks into each pod,
and no rank more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from finetune_operator.api.job import Job
from finetune_operator.api.runtime import RuntimeSpec
from finetune_trainer.spec.quantity import cpu_cores, memory_bytes

HEAD_CPU, HEAD_MEMORY = "2", "8Gi"
WORKER_CPU, WORKER_MEMORY = "4", "16Gi"
"""What a runtime gets that mentions the pods of a role without these."""

OBJECT_STORE = 128 * 2**20
"""Bytes of Ray's object store; only small objects pass through it."""


@dataclass(frozen=True)
class Share:
    """What one pod gets: `cpu` and `memory` as quantities, whole GPUs, and the cores that Ray counts there."""

    cpu: str
    memory: str
    gpus: int
    ray_cpus: int

    @property
    def threads(self) -> int:
        """Compute threads of each rank: the container's cores divided; libraries would count those of the node."""
        return max(1, int(cpu_cores(self.cpu) // max(1, self.gpus)))


def head_share(runtime: RuntimeSpec) -> Share:
    """The head runs the driver and Ray's controllers, which ask for nothing, and no rank."""
    return Share(runtime.head.cpu or HEAD_CPU, runtime.head.memory or HEAD_MEMORY, 0, 0)


def worker_share(job: Job, runtime: RuntimeSpec) -> Share:
    """The job's wish where it has one, else the runtime's."""
    workers = job.manifest.spec.workers
    wish, options, gpus = workers.resources, runtime.worker, workers.gpus_per_replica
    own = wish.cpu if wish else None
    cpu = own or options.cpu or WORKER_CPU
    memory = (wish.memory if wish else None) or options.memory or WORKER_MEMORY
    return Share(cpu, memory, gpus, math.ceil(cpu_cores(own)) if own else max(1, gpus))


def requirements(share: Share, runtime: RuntimeSpec) -> dict[str, dict[str, str]]:
    """The container's resources: request = limit, so that nothing is promised twice."""
    amounts = {"cpu": share.cpu, "memory": share.memory}
    if share.gpus:
        amounts[runtime.gpu.resource_name] = str(share.gpus)
    return {"requests": dict(amounts), "limits": dict(amounts)}


def shared_memory(share: Share, runtime: RuntimeSpec) -> str:
    """Size of /dev/shm: at most half the pod's memory, which it counts against, as Linux has it for itself."""
    half = memory_bytes(share.memory) // 2
    return runtime.shared_memory if memory_bytes(runtime.shared_memory) <= half else f"{half // 2**20}Mi"


def ray_start(share: Share) -> dict[str, str]:
    """The parameters of `ray start`."""
    return {
        "num-cpus": str(share.ray_cpus),
        "num-gpus": str(share.gpus),
        "object-store-memory": str(OBJECT_STORE),
    }
