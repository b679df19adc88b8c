"""One shuffle block: from outcomes to rows. A pure function of the records' content, so all ranks build the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from finetune_trainer.data.chunks import Ints
from finetune_trainer.data.columns import Outcomes, parts_of, positions
from finetune_trainer.data.pack import rows_of
from finetune_trainer.data.row_table import RowTable
from finetune_trainer.data.rows import Counters, RecordId
from finetune_trainer.data.settings import DataSettings
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

    rows: RowTable
    counters: Counters
    bad: list[Quarantined]


class BlockBuilder:
    """Builds blocks with one set of settings."""

    def __init__(self, settings: DataSettings) -> None:
        self._settings = settings

    def build(self, outcomes: Outcomes, *, substitute: bool, shuffle: Callable[[int], Ints] | None = None) -> BlockRows:
        """Rows of `outcomes`, packed if asked for; a bad record is replaced by the next good one, or left out.

        `shuffle`: the order of so many packed rows, int64[rows].
        """
        used = outcomes.take(positions(outcomes, substitute=substitute)) if outcomes.refused else outcomes
        bad = _quarantined(outcomes)
        replaced = len(bad) if substitute and len(used.tokens) else 0
        counters = _added(outcomes.counted.values())
        counters += Counters(records=len(outcomes), bad=len(bad), substituted=replaced)
        return BlockRows(self._rows(used, shuffle), counters, bad)

    def _rows(self, outcomes: Outcomes, shuffle: Callable[[int], Ints] | None) -> RowTable:
        """All rows' tokens are gathered at once, row by row, so that any rows side by side lie together."""
        lengths = outcomes.tokens.lengths
        together = outcomes.pieces[outcomes.pieces > 0] if self._settings.paired else np.ones_like(lengths)
        rows = self._places(lengths, together, shuffle)
        order = parts_of(together, np.argsort(rows, kind="stable"))
        lengths, ends = lengths[order], np.cumsum(lengths[order])
        owners = np.repeat(np.arange(len(outcomes)), outcomes.pieces)[order]
        documents = np.cumsum(np.bincount(rows, weights=together).astype(np.int64))
        return RowTable(
            outcomes.tokens.take(order).values,
            outcomes.trained.take(order).values,
            lengths,
            outcomes.records[owners],
            np.concatenate([[0], documents]),
            np.concatenate([[0], ends[documents - 1]]),
            None if outcomes.targets is None else outcomes.targets[owners],
            None if outcomes.weights is None else outcomes.weights.take(order).values,
        )

    def _places(self, lengths: Ints, together: Ints, shuffle: Callable[[int], Ints] | None) -> Ints:
        """The row of each group of so many pieces that stay together (the two of a pair), int64[groups]."""
        if self._settings.packing is Packing.NONE or not len(together):
            return np.arange(len(together))
        sizes = np.add.reduceat(lengths, np.cumsum(together) - together)
        rows = rows_of(sizes, self._settings.max_length)
        if shuffle is None:
            return rows
        order = shuffle(int(rows.max()) + 1)
        moved = np.empty_like(order)
        moved[order] = np.arange(len(order))
        return moved[rows]


def _quarantined(outcomes: Outcomes) -> list[Quarantined]:
    refused = sorted(outcomes.refused.items())
    records = outcomes.records[np.array([n for n, _ in refused], dtype=np.int64)].written
    return [Quarantined(one, why.reason, why.excerpt) for one, (_, why) in zip(records, refused, strict=True)]


def _added(counted: Iterable[Counters]) -> Counters:
    """Their sum, without an object for each on the way."""
    totals = dict.fromkeys(Counters.model_fields, 0)
    for one in counted:
        for name, number in one:
            totals[name] += number
    return Counters(**totals)
