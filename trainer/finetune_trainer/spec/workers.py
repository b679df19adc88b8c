"""How much hardware the run gets."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_trainer.spec.base import Part
from finetune_trainer.spec.quantity import Cpu, Memory


class Resources(Part):
    """CPU and memory of each worker pod, as request and limit; GPUs come from `gpusPerReplica`."""

    cpu: Cpu | None = None
    """Cores, for instance `"64"` or `"500m"`."""

    memory: Memory | None = None
    """Memory with its unit, for instance `512Gi`."""


Replicas = Annotated[int, Field(ge=1, le=4096)]


class Workers(Part):
    """How much hardware the run gets: ranks = replicas x max(1, gpusPerReplica)."""

    replicas: Replicas = 1
    """Worker pods, or worker processes on one machine without GPUs."""

    min_replicas: Replicas | None = None
    """Fewest worker pods to train with: the run starts with those that fit, goes on without lost ones, and takes others
    in as they come, after a commit; the global batch stays the same."""

    gpus_per_replica: Annotated[int, Field(ge=0, le=64)]
    """GPUs of each worker; 0 trains on the CPU with one rank per worker."""

    resources: Resources | None = None
    """CPU and memory of each worker pod; the runtime's when left out."""

    @property
    def ranks_per_replica(self) -> int:
        """Ranks of one worker: one for each GPU, or one without any."""
        return max(1, self.gpus_per_replica)

    @property
    def fewest(self) -> int:
        """Worker pods without which the run cannot train."""
        return self.min_replicas or self.replicas
