"""One shuffle block: from outcomes to rows. A pure function of the records' content, so all ranks build the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from finetune_trainer.data.chunks import Ints
from finetune_trainer.data.encode import Document
from finetune_trainer.data.outcomes import Outcome
from finetune_trainer.data.overlong import Fitted
from finetune_trainer.data.pack import best_fit
from finetune_trainer.data.rows import Counters, RecordId, Row
from finetune_trainer.data.settings import DataSettings
from finetune_trainer.data.tokens.format import Refused, Result
from finetune_trainer.spec.data import Packing


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


class BlockBuilder:
    """Builds blocks with one set of settings."""

    def __init__(self, settings: DataSettings) -> None:
        self._settings = settings

    def build(self, outcomes: Sequence[Outcome], *, substitute: bool) -> BlockRows:
        """Rows of `outcomes`, packed if asked for; a bad record is replaced by the next good one, or left out."""
        documents = _documents(outcomes, substitute=substitute)
        refused = [(o.record, o.result) for o in outcomes if isinstance(o.result, Refused)]
        bad = [Quarantined(record, why.reason, why.excerpt) for record, why in refused]
        fitted = [o.result.counters for o in outcomes if isinstance(o.result, Fitted)]
        counters = sum((counted for counted in fitted if counted), Counters())
        replaced = len(bad) if substitute and documents else 0
        counters += Counters(records=len(outcomes), bad=len(bad), substituted=replaced)
        return BlockRows(self._rows(documents), counters, bad)

    def _rows(self, documents: Sequence[tuple[RecordId, Document]]) -> list[Row]:
        if self._settings.packing is Packing.NONE:
            return [_row([document]) for document in documents]
        groups = best_fit([len(document.input_ids) for _, document in documents], self._settings.max_length)
        return [_row([documents[i] for i in group]) for group in groups]


def shuffled(block: BlockRows, order: Ints) -> BlockRows:
    """The block with its rows in another order."""
    return BlockRows([block.rows[i] for i in order], block.counters, block.bad)


class HasResult(Protocol):
    """What became of a record."""

    @property
    def result(self) -> Result:
        """Its pieces, or why there are none."""
        ...


def positions(outcomes: Sequence[HasResult], *, substitute: bool) -> list[int]:
    """Whose documents stand at each position: the outcome's own, or those of the next one, cyclic, that has any.

    Only bad records are substituted; without that their positions are left out.
    """
    usable = [i for i, outcome in enumerate(outcomes) if isinstance(outcome.result, Fitted) and outcome.result.pieces]
    found = []
    for i, outcome in enumerate(outcomes):
        if isinstance(outcome.result, Fitted):
            found.append(i)
        elif substitute and usable:
            found.append(usable[int(np.searchsorted(usable, i)) % len(usable)])
    return found


def _documents(outcomes: Sequence[Outcome], *, substitute: bool) -> list[tuple[RecordId, Document]]:
    """The documents of every position."""
    chosen = [outcomes[i] for i in positions(outcomes, substitute=substitute)]
    return [(o.record, piece) for o in chosen if isinstance(o.result, Fitted) for piece in o.result.pieces]


def _row(documents: Sequence[tuple[RecordId, Document]]) -> Row:
    return Row(
        input_ids=np.concatenate([document.input_ids for _, document in documents]),
        labels=np.concatenate([document.labels for _, document in documents]),
        position_ids=np.concatenate([np.arange(len(d.input_ids), dtype=np.int32) for _, d in documents]),
        records=tuple(record for record, _ in documents),
    )
