"""How often each label is in the training data of a classifier, counted once and kept beside the index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from pydantic import BaseModel, ConfigDict, ValidationError

from finetune_trainer.data.examples import BadRecord, Labelled
from finetune_trainer.data.formats import convert
from finetune_trainer.data.index import DatasetIndex
from finetune_trainer.data.indexing import INDEX_FOLDER
from finetune_trainer.data.label_set import LabelSet, Value, label_set, value_of
from finetune_trainer.data.order import SequentialOrder
from finetune_trainer.data.reader import RecordReader
from finetune_trainer.data.settings import DataSettings
from finetune_trainer.spec.heads import Classification, ProblemType
from finetune_trainer.spec.job import JobSpec
from finetune_trainer.store import ObjectNotFound, ObjectStore, open_store

COUNTS_VERSION = 1

Progress = Callable[[int, int], None]
"""Told how many records are done, of how many."""


def _silent(done: int, total: int) -> None:
    """Nobody is told."""


class LabelCounts(BaseModel):
    """How many records of each source have each label, as they write it; JSON, kept beside the index."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    sources: tuple[tuple[tuple[Value, int], ...], ...]

    def weighted(self, weights: Sequence[float]) -> dict[Value, float]:
        """How often each label is seen in an epoch, where source n is seen `weights[n]` times."""
        totals: Counter[Value] = Counter()
        for counted, weight in zip(self.sources, weights, strict=True):
            for value, count in counted:
                totals[value] += count * weight  # type: ignore[assignment]  # a Counter adds up floats as well
        return dict(totals)


def count_labels(index: DatasetIndex, cache: ObjectStore, progress: Progress = _silent) -> LabelCounts:
    """How many records have each label, from `cache`, or counted now in one pass over the data and kept there.

    `progress` hears of the records done and of how many there are. Records that cannot be read are passed over: they
    are quarantined when they are trained on.
    """
    key = f"{index.id}.labels.v{COUNTS_VERSION}.json"
    try:
        return LabelCounts.model_validate_json(cache.get(key))
    except (ObjectNotFound, ValidationError):
        counts = _counted(index, progress)
    cache.put(key, counts.model_dump_json().encode())
    return counts


def _counted(index: DatasetIndex, progress: Progress) -> LabelCounts:
    whole, done = index.unweighted(), 0
    counters: list[Counter[Value]] = [Counter() for _ in whole.sources]
    with RecordReader(whole) as reader:
        for block in SequentialOrder(whole.table).blocks():
            progress(done, whole.records)
            done += block.records
            for record in reader.read(block):
                source = index.sources[record.source]
                try:
                    example = convert(record.raw, source.format, source.columns)
                    values = _values(example)
                except BadRecord:
                    continue
                counters[record.source].update(values)
    return LabelCounts(sources=tuple(tuple(sorted(one.items(), key=repr)) for one in counters))


def _values(example: object) -> list[Value]:
    if not isinstance(example, Labelled):
        return []
    return [value_of(one) for one in (example.given if isinstance(example.given, list) else [example.given])]


def with_labels(
    settings: DataSettings, spec: JobSpec, train: DatasetIndex, progress: Progress = _silent
) -> DataSettings:
    """The settings of a classifier with its labels, `train` being the index of its training data; others as they are.

    `progress` as in `count_labels`.
    Raises DataError for labels that cannot be learnt (`label_set`), or for data that cannot be read.
    """
    if not settings.scored:
        return settings
    options = spec.objective.classification or Classification()
    if options.problem is ProblemType.REGRESSION:
        return replace(settings, labels=LabelSet(options.problem))
    counts = count_labels(train, open_store(f"{spec.checkpoint.uri}/{INDEX_FOLDER}"), progress)
    weights = [source.weight for source in train.sources]
    return replace(settings, labels=label_set(options, counts.weighted(weights)))
