"""Whether this machine can run what a manifest asks for, and the same job with other workers."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from finetune_trainer.errors import Problem, SpecError
from finetune_trainer.spec import FineTuneJob, parse_job, ranks, to_manifest

CPU_RANKS = 2
"""CPU ranks that every machine may run, so that a two-worker job can be tried on a single core."""


@dataclass(frozen=True)
class Machine:
    """What this process may use: cores and GPUs."""

    cpus: int
    gpus: int

    @property
    def cpu_ranks(self) -> int:
        """Most ranks that run here without GPUs; more than one per core only slow each other down."""
        return max(CPU_RANKS, self.cpus)


def this_machine(count_gpus: bool) -> Machine:
    """Count the cores that this process may run on and, if asked (it imports torch), the visible GPUs."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    if not count_gpus:
        return Machine(cpus, 0)
    import torch

    return Machine(cpus, torch.cuda.device_count())


def check_machine(job: FineTuneJob, machine: Machine) -> None:
    """Refuse a job that needs more ranks or GPUs than the machine has; raises SpecError with the remedy."""
    workers = job.spec.workers
    fitting = min(machine.cpu_ranks, ranks(job))
    remedy = f"run it here with `--workers {fitting} --gpus 0` (the global batch stays the same)"
    if workers.gpus_per_replica == 0 and workers.replicas > machine.cpu_ranks:
        has = f"this machine has {machine.cpus} CPU cores, for at most {machine.cpu_ranks} ranks"
        raise SpecError([Problem("spec.workers.replicas", workers.replicas, f"{has}; {remedy}")])
    needed = workers.replicas * workers.gpus_per_replica
    if needed > machine.gpus:
        field = "gpusPerReplica" if workers.gpus_per_replica > machine.gpus else "replicas"
        value = workers.gpus_per_replica if field == "gpusPerReplica" else workers.replicas
        needs = f"replicas x gpusPerReplica needs {needed} GPUs and this machine has {machine.gpus}"
        raise SpecError([Problem(f"spec.workers.{field}", value, f"{needs}; {remedy}")])


def with_workers(job: FineTuneJob, replicas: int | None, gpus: int | None) -> FineTuneJob:
    """Return the job on other workers and with the same global batch, checked again; None keeps the manifest's value.

    Raises SpecError when the result does not hold, for instance a global batch below the number of ranks.
    """
    if replicas is None and gpus is None:
        return job
    manifest = to_manifest(job)
    workers = manifest["spec"]["workers"]
    if replicas is not None:
        workers["replicas"] = replicas
        workers.pop("minReplicas", None)
    if gpus is not None:
        workers["gpusPerReplica"] = gpus
    return parse_job(json.dumps(manifest))
