"""Whether a job fits into its devices, asked before any worker starts; what is unknown here is left to the ranks."""

from __future__ import annotations

from collections.abc import Mapping

from finetune_trainer.errors import SpecError
from finetune_trainer.estimate import Hardware, Verdict, estimate, refusal
from finetune_trainer.model.sizes import sizes_of_model
from finetune_trainer.spec import FineTuneJob
from finetune_trainer.spec.quantity import memory_bytes

GPU_MEMORY = "FINETUNE_GPU_MEMORY"
GPU_PRODUCT = "FINETUNE_GPU_PRODUCT"
"""Environment variables by which the operator says what the FineTuneRuntime knows of its GPUs."""


def check_fits(job: FineTuneJob, environ: Mapping[str, str], *, local: bool) -> str | None:
    """A warning where the job is predicted not to fit. Raises SpecError, with the numbers, where it cannot."""
    hardware = hardware_of(job, environ, local=local)
    if hardware.memory is None:
        return None
    model = sizes_of_model(job.spec.model.uri)
    if model is None:
        return None
    if (problem := refusal(job, model, hardware)) is not None:
        raise SpecError([problem])
    if isinstance(model, int):
        return None
    found = estimate(job, model, hardware)
    if found.verdict is not Verdict.TIGHT:
        return None
    ways = "".join(f"; it would fit with {change.text}" for change in found.changes[:1])
    return f"memory is predicted to run out: {found.shortage}{ways} (`finetune plan` shows more)"


def hardware_of(job: FineTuneJob, environ: Mapping[str, str], *, local: bool) -> Hardware:
    """What each rank gets: the runtime's GPU, this machine's, or on a cluster the memory of a CPU rank's pod."""
    workers = job.spec.workers
    asked = workers.resources.memory if workers.resources and not local else None
    pod = memory_bytes(asked) if asked else None
    if workers.gpus_per_replica == 0:
        return Hardware("a worker", pod, pod)
    if text := environ.get(GPU_MEMORY):
        return Hardware(environ.get(GPU_PRODUCT, "a GPU of the runtime"), int(text), pod)
    return Hardware("a GPU of this machine", _smallest_gpu() if local else None)


def _smallest_gpu() -> int | None:
    import torch

    sizes = [torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())]
    return min(sizes, default=None)
