"""One shuffle block: from raw records to rows. A pure function of their content, so every rank builds the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finetune_trainer.data.encode import Document, Encoder
from finetune_trainer.data.examples import BadRecord, Example
from finetune_trainer.data.formats import Raw, convert
from finetune_trainer.data.index import DatasetIndex
from finetune_trainer.data.order import Ints
from finetune_trainer.data.overlong import Fitted, fit_length
from finetune_trainer.data.pack import best_fit
from finetune_trainer.data.reader import RawRecord
from finetune_trainer.data.rows import Counters, RecordId, Row
from finetune_trainer.data.settings import DataSettings
from finetune_trainer.spec.data import Packing

EXCERPT = 200


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A record that could not be used, why, and the beginning of it: content, for the tenant's own storage only.

    `excerpt` is empty for a Parquet row that cannot be read.
    """

    record: RecordId
    reason: str
    excerpt: str


@dataclass(frozen=True)
class BlockRows:
    """The rows of a block in the order they are trained on; `counters` without what is counted per row."""

    rows: list[Row]
    counters: Counters
    bad: list[Quarantined]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a record holds, its tokens, and its pieces of at most a row; each may be the reason why there is none."""

    record: RawRecord
    example: Example | BadRecord
    document: Document | BadRecord
    fitted: Fitted | BadRecord


class BlockBuilder:
    """Builds blocks with one tokenizer and one set of settings."""

    def __init__(self, index: DatasetIndex, settings: DataSettings, encoder: Encoder) -> None:
        self._index = index
        self._settings = settings
        self._encoder = encoder

    def build(self, records: Sequence[RawRecord], *, substitute: bool) -> BlockRows:
        """Rows of `records`, packed if asked for; a bad record is replaced by the next good one, or left out."""
        return self.assemble(self.outcomes(records), substitute=substitute)

    def outcomes(self, records: Sequence[RawRecord]) -> list[Outcome]:
        """What becomes of each record on its own."""
        examples = [self._convert(record) for record in records]
        encoded = self._encoder.encode(examples)
        return [Outcome(*of, self._fit(of[-1])) for of in zip(records, examples, encoded, strict=True)]

    def assemble(self, outcomes: Sequence[Outcome], *, substitute: bool) -> BlockRows:
        """The rows of a block of records; see `build`."""
        documents = [
            (outcomes[i].record.id, piece)
            for i in positions(outcomes, substitute=substitute)
            for piece in _pieces(outcomes[i])
        ]
        bad = [_quarantined(o.record, o.fitted) for o in outcomes if isinstance(o.fitted, BadRecord)]
        fitted = [o.fitted.counters for o in outcomes if isinstance(o.fitted, Fitted)]
        counters = sum((counted for counted in fitted if counted), Counters())
        replaced = len(bad) if substitute and documents else 0
        counters += Counters(records=len(outcomes), bad=len(bad), substituted=replaced)
        return BlockRows(self._rows(documents), counters, bad)

    def _convert(self, record: RawRecord) -> Example | BadRecord:
        source = self._index.sources[record.source]
        try:
            return convert(record.raw, source.format, source.columns)
        except BadRecord as error:
            return error

    def _fit(self, found: Document | BadRecord) -> Fitted | BadRecord:
        if isinstance(found, BadRecord):
            return found
        try:
            return fit_length(found, self._settings.max_length, self._settings.overlong)
        except BadRecord as error:
            return error

    def _rows(self, documents: Sequence[tuple[RecordId, Document]]) -> list[Row]:
        if self._settings.packing is Packing.NONE:
            return [_row([document]) for document in documents]
        groups = best_fit([len(document.input_ids) for _, document in documents], self._settings.max_length)
        return [_row([documents[i] for i in group]) for group in groups]


def shuffled(block: BlockRows, order: Ints) -> BlockRows:
    """The block with its rows in another order."""
    return BlockRows([block.rows[i] for i in order], block.counters, block.bad)


def positions(outcomes: Sequence[Outcome], *, substitute: bool) -> list[int]:
    """Whose documents stand at each position: the outcome's own, or those of the next one, cyclic, that has any.

    Only bad records are substituted; without that their positions are left out.
    """
    usable = [i for i, outcome in enumerate(outcomes) if _pieces(outcome)]
    found = []
    for i, outcome in enumerate(outcomes):
        if isinstance(outcome.fitted, Fitted):
            found.append(i)
        elif substitute and usable:
            found.append(usable[int(np.searchsorted(usable, i)) % len(usable)])
    return found


def _pieces(outcome: Outcome) -> tuple[Document, ...]:
    return outcome.fitted.pieces if isinstance(outcome.fitted, Fitted) else ()


def _row(documents: Sequence[tuple[RecordId, Document]]) -> Row:
    return Row(
        input_ids=np.concatenate([document.input_ids for _, document in documents]),
        labels=np.concatenate([document.labels for _, document in documents]),
        position_ids=np.concatenate([np.arange(len(d.input_ids), dtype=np.int32) for _, d in documents]),
        records=tuple(record for record, _ in documents),
    )


def _quarantined(record: RawRecord, reason: BadRecord) -> Quarantined:
    return Quarantined(record.id, str(reason), _excerpt(record.raw))


def _excerpt(raw: Raw) -> str:
    if isinstance(raw, BadRecord):
        return ""
    text = raw[: 4 * EXCERPT].decode("utf-8", "replace") if isinstance(raw, bytes) else repr(raw)
    return text if len(text) <= EXCERPT else f"{text[:EXCERPT]}..."
