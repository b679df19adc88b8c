"""Whether a job can fit into the memory of a runtime's GPUs, as far as manifest and runtime tell, before any pod."""

from __future__ import annotations

from finetune_operator.api.runtime import RuntimeSpec
from finetune_trainer.errors import Problem
from finetune_trainer.estimate import Hardware, find_gpu, known_shape, refusal
from finetune_trainer.spec import FineTuneJob
from finetune_trainer.spec.quantity import memory_bytes


def check_memory(manifest: FineTuneJob, runtime: RuntimeSpec) -> Problem | None:
    """Why the job cannot fit, with the numbers; None where it may, or where the model or the memory is unknown here.

    Known are the models of the table (`finetune_trainer.estimate.known`) by their `hf://` address; the driver looks at
    the others, with the tenant's credentials. The memory is the runtime's `gpu.memory`, else that of its `gpu.product`.
    """
    shape = known_shape(manifest.spec.model.uri)
    if shape is None:
        return None
    return refusal(manifest, shape, _hardware(manifest, runtime))


def _hardware(manifest: FineTuneJob, runtime: RuntimeSpec) -> Hardware:
    if manifest.spec.workers.gpus_per_replica == 0:
        asked = manifest.spec.workers.resources
        return Hardware("a worker", memory_bytes((asked and asked.memory) or runtime.worker.memory or "0") or None)
    return Hardware(runtime.gpu.product or "a GPU of the runtime", gpu_memory(runtime))


def gpu_memory(runtime: RuntimeSpec) -> int | None:
    """Bytes of one GPU, as the runtime says, or its product if that is known."""
    if runtime.gpu.memory is not None:
        return memory_bytes(runtime.gpu.memory)
    known = find_gpu(runtime.gpu.product) if runtime.gpu.product else None
    return known.memory if known else None
