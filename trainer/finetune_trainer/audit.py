"""What a run is about to train, on what: printed before the first step, and stored beside the result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_trainer.data import Counters
from finetune_trainer.dataset import Dataset
from finetune_trainer.model.coverage import Coverage
from finetune_trainer.model.isolation import IsolationReport


def compose_audit(
    dataset: Dataset, coverage: Coverage, isolation: IsolationReport | None, versions: dict[str, Any]
) -> dict[str, Any]:
    """JSON: trainable share, adapter coverage, isolation proof, kept-token share, counts, a sample with its mask.

    `labels`: how often each of a classifier's is seen in an epoch. `dataReport`: what `finetune data report` says, of
    the first block of records.
    """
    data, labels = dataset.stream.audit(), dataset.labels
    return {
        "trainableShare": coverage.trainable_share,
        "coverage": coverage.to_json(),
        "isolation": isolation.to_json() if isolation is not None else "not packed",
        "keptTokenShare": data.kept_share,
        "counts": data.counters.model_dump(),
        "sources": data.sources,
        **({} if labels is None else {"labels": dict(zip(labels.names, labels.counts, strict=True))}),
        "dataReport": data.report and data.report.model_dump(mode="json"),
        "datasetId": dataset.id,
        "estimatedSteps": dataset.stream.estimated_batches(),
        "sample": [{"text": text, "trained": trained} for text, trained in data.sample],
        "versions": versions,
    }


def whole_counts(train: Counters, held_out: Mapping[str, Counters]) -> dict[str, Any]:
    """JSON: what became of all records, in place of the counts of a first block that `compose_audit` knows."""
    return {
        "keptTokenShare": train.kept_tokens / train.tokens if train.tokens else 0.0,
        "counts": train.model_dump(),
        "evalCounts": {name: counts.model_dump() for name, counts in held_out.items()},
    }
