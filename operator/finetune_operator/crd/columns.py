"""What `kubectl get` shows of a job and of a runtime."""

from __future__ import annotations

Column = dict[str, str]


def _column(name: str, path: str, kind: str, description: str) -> Column:
    return {"name": name, "type": kind, "jsonPath": path, "description": description}


JOB_COLUMNS: tuple[Column, ...] = (
    _column("Phase", ".status.phase", "string", "Where the job stands"),
    _column("Method", ".spec.method.type", "string", "Which weights are trained"),
    _column("Workers", ".status.workers.summary", "string", "Worker pods that are ready, of those asked for"),
    _column("Step", ".status.progress.step", "integer", "Optimizer steps done"),
    _column("%", ".status.progress.percent", "integer", "Share of the run that is done"),
    _column("Loss", ".status.progress.loss", "string", "Training loss of the last reported step"),
    # A string: kubectl shows a date as the time since, which the future has none of.
    _column("ETA", ".status.progress.estimatedCompletionTime", "string", "When the run ends at the present speed"),
    _column("Checkpoint", ".status.checkpoint.committedAt", "date", "Time since the newest commit"),
    _column("Queue", ".status.queue.summary", "string", "Why the job waits"),
    _column("Restarts", ".status.restarts", "integer", "Restarts of the workers in the current attempt"),
    _column("Age", ".metadata.creationTimestamp", "date", "Time since the job was created"),
)
RUNTIME_COLUMNS: tuple[Column, ...] = (
    _column("Image", ".spec.image", "string", "Image of head and workers"),
    _column("Ray", ".spec.rayVersion", "string", "Ray's version in the image"),
    _column("GPU", ".spec.gpu.product", "string", "Product of the nodes' GPUs"),
    _column("Age", ".metadata.creationTimestamp", "date", "Time since the runtime was created"),
)
