"""What makes two runs the same run, so that one may continue the other's checkpoints.

In: everything that changes which updates are made to which weights: model (address, chat template, the checkpoint to
start from), method, objective, training data (addresses, formats, columns, weights, in their order), maxLength,
overlong, packing, epochs or maxSteps, globalBatchSize, learningRate, schedule, optimizer, maxGradNorm, precision and
seed.

Out, because a resumed run may change them: microBatchSize, gradientCheckpointing, workers and deepspeed (where and how
fast the same updates are computed), maxSkippedSteps and badRecords (budgets that end a run), evaluation and its data,
checkpoint, output, and all that only concerns a cluster.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from finetune_trainer.spec.derived import to_manifest
from finetune_trainer.spec.job import FineTuneJob

_IDENTITY: tuple[str, ...] = (
    "model",
    "method",
    "objective",
    "data.train",
    "data.maxLength",
    "data.overlong",
    "data.packing",
    "training.epochs",
    "training.maxSteps",
    "training.globalBatchSize",
    "training.learningRate",
    "training.schedule",
    "training.optimizer",
    "training.maxGradNorm",
    "training.precision",
    "training.seed",
)

# Fields that came later: with these values a job is what it was without them, and continues its checkpoints.
_AS_BEFORE: dict[str, Any] = {
    "spec.method.lora.dora": False,
    "spec.method.lora.rslora": False,
    "spec.method.lora.initialization": "Default",
    "spec.method.lora.learningRateRatio": 1.0,
}


def identity(job: FineTuneJob) -> str:
    """SHA-256 of `identity_fields` as 64 hex digits."""
    text = json.dumps(identity_fields(job), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def identity_fields(job: FineTuneJob) -> dict[str, Any]:
    """Scalars by full path (`spec.data.train[0].uri`), so that a mismatch can be explained field by field."""
    spec = to_manifest(job)["spec"]
    pairs = (pair for path in _IDENTITY for pair in _flat(f"spec.{path}", _lookup(spec, path)))
    return {path: value for path, value in pairs if path not in _AS_BEFORE or value != _AS_BEFORE[path]}


def _lookup(spec: dict[str, Any], path: str) -> Any:
    part, _, field = path.partition(".")
    return spec[part].get(field) if field else spec[part]


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, member in value.items():
            yield from _flat(f"{path}.{name}", member)
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from _flat(f"{path}[{index}]", member)
    elif value is not None:
        yield path, value
