"""Counts what becomes of records, block by block, and sums it up as a report of their set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data import duplicates
from finetune_trainer.data.audit import kept_share
from finetune_trainer.data.block import BlockRows
from finetune_trainer.data.columns import Refused, positions
from finetune_trainer.data.encode import Document
from finetune_trainer.data.index import DatasetIndex
from finetune_trainer.data.order import Order
from finetune_trainer.data.outcomes import Seen, outcomes_of
from finetune_trainer.data.overlong import Fitted
from finetune_trainer.data.report import (
    SHOWN,
    BadExample,
    Match,
    Measures,
    Overlap,
    SetReport,
    SourceReport,
    counted,
    project,
    summarise_lengths,
)
from finetune_trainer.data.report_prints import Fingerprints
from finetune_trainer.data.rows import IGNORED, Counters
from finetune_trainer.data.settings import DataSettings

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class _Found:
    """Duplicates in a set: `rows`, positions among the fingerprints; each one's earlier one in `rows`, or -1."""

    rows: Ints
    exact: Ints
    near: Ints


class Tally:
    """The records of a set as they are read. `order`: of the pass that they are part of; `train`: of the training data,
    whose bad records are substituted.
    """

    def __init__(
        self, index: DatasetIndex, order: Order, settings: DataSettings, prints: Fingerprints, *, train: bool
    ) -> None:
        self._index = index
        self._settings = settings
        self._prints = prints
        self._files = prints.register(index)
        self._first = self._end = prints.size
        self._train = train
        sources = len(index.sources)
        self._expected = np.array(order.source_records, dtype=np.int64)
        self._counts = {name: np.zeros(sources, dtype=np.int64) for name in Counters.model_fields}
        self._lengths: list[list[NDArray[np.int32]]] = [[] for _ in range(sources)]
        self._bad: list[list[BadExample]] = [[] for _ in range(sources)]
        self._rows = 0

    def add(self, outcomes: Sequence[Seen], block: BlockRows) -> None:
        """Count a block's records and the rows made of them; the blocks of a set before those of the next."""
        sources = np.array([outcome.record.source for outcome in outcomes], dtype=np.int64)
        used = positions(outcomes_of(outcomes), substitute=self._train)
        times = np.bincount(used, minlength=len(outcomes))
        for name, numbers in _trained(outcomes).items():
            np.add.at(self._counts[name], sources, times * numbers)
        np.add.at(self._counts["records"], sources, 1)
        for source, outcome in zip(sources.tolist(), outcomes, strict=True):
            self._note(source, outcome)
        lengths = [len(o.document.input_ids) if isinstance(o.document, Document) else 0 for o in outcomes]
        for source in np.unique(sources):
            own = np.array(lengths, dtype=np.int32)[sources == source]
            self._lengths[source].append(own[own > 0])
        self._rows += len(block.rows)
        self._prints.add(outcomes, self._files)
        self._end = self._prints.size

    def report(self, name: str, training: Tally | None = None) -> SetReport:
        """What was counted; with `training`, the set's overlap with it. `name`: the set's."""
        found = self._duplicates()
        numbers = list(range(len(self._index.sources)))
        sources = [self._source(number, found) for number in numbers]
        total = self._measures(numbers, found, np.ones(len(found.rows), dtype=bool))
        return SetReport(
            name=name,
            estimated=total.read < total.expected,
            sources=sources,
            total=total,
            rows=self._rows,
            fill=total.tokens / (self._rows * self._settings.max_length) if self._rows else 0.0,
            whole=project(
                [source.counts for source in sources],
                self._rows,
                self._settings.global_batch_size if self._train else None,
            ),
            overlap=self._overlap(training) if training is not None else None,
        )

    def _note(self, source: int, outcome: Seen) -> None:
        if isinstance(outcome.result, Refused):
            self._counts["bad"][source] += 1
            if len(self._bad[source]) < SHOWN:
                self._bad[source].append(BadExample(record=outcome.record.id, reason=outcome.result.reason))
        elif outcome.result.counters is not None:
            for name, number in outcome.result.counters.model_dump().items():
                self._counts[name][source] += number

    def _source(self, number: int, found: _Found) -> SourceReport:
        source = self._index.sources[number]
        own = [file for (place, _), file in self._files.items() if place == number]
        here = np.isin(self._prints.files_of(found.rows), own)
        return SourceReport(
            uri=source.uri,
            format=str(source.format),
            weight=source.weight,
            counts=self._measures([number], found, here),
            bad_records=self._bad[number],
            duplicates=self._matches(found, here),
        )

    def _measures(self, sources: list[int], found: _Found, here: NDArray[np.bool_]) -> Measures:
        counters = Counters(**{name: int(counts[sources].sum()) for name, counts in self._counts.items()})
        files = [self._index.sources[number].files for number in sources]
        lengths = [np.empty(0, dtype=np.int32), *(part for number in sources for part in self._lengths[number])]
        return Measures(
            records=sum(self._index.sources[number].records for number in sources),
            bytes=sum(file.size for own in files for file in own),
            expected=int(self._expected[sources].sum()),
            read=counters.records,
            kept_share=kept_share(counters),
            lengths=summarise_lengths(np.concatenate(lengths)),
            exact_duplicates=int(np.count_nonzero(here & (found.exact >= 0))),
            near_duplicates=int(np.count_nonzero(here & (found.near >= 0))),
            **counted(counters),
        )

    def _duplicates(self) -> _Found:
        rows = self._prints.distinct(self._first, self._end)
        return self._search(rows, np.ones(len(rows), dtype=bool))

    def _overlap(self, training: Tally) -> Overlap:
        known = training._prints.distinct(training._first, training._end)
        rows = np.concatenate([known, self._prints.distinct(self._first, self._end)])
        ours = np.arange(len(rows)) >= len(known)
        found = self._search(rows, ~ours)
        return Overlap(
            exact=int(np.count_nonzero(ours & (found.exact >= 0))),
            near=int(np.count_nonzero(ours & (found.near >= 0))),
            examples=self._matches(found, ours),
        )

    def _search(self, rows: Ints, reference: NDArray[np.bool_]) -> _Found:
        exact = duplicates.equal_to_earlier(self._prints.digests[rows], reference)
        near = duplicates.similar_to_earlier(self._prints.signatures, rows, reference)
        return _Found(rows, exact, np.where(exact < 0, near, -1))

    def _matches(self, found: _Found, here: NDArray[np.bool_]) -> list[Match]:
        matches = []
        for earlier, near in ((found.exact, False), (found.near, True)):
            for place in np.flatnonzero(here & (earlier >= 0))[:SHOWN]:
                record, other = (self._prints.id_of(found.rows[i]) for i in (place, earlier[place]))
                matches.append(Match(record=record, earlier=other, near=near))
        return matches


def _trained(outcomes: Sequence[Seen]) -> dict[str, Ints]:
    """Per outcome, its trained pieces and their tokens: int64[outcomes] each."""
    pieces = [o.result.pieces if isinstance(o.result, Fitted) else () for o in outcomes]
    return {
        "documents": np.array([len(own) for own in pieces], dtype=np.int64),
        "tokens": np.array([sum(len(piece.labels) for piece in own) for own in pieces], dtype=np.int64),
        "kept_tokens": np.array(
            [sum(int(np.count_nonzero(piece.labels != IGNORED)) for piece in own) for own in pieces], dtype=np.int64
        ),
    }
