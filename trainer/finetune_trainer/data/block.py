"""One shuffle block: from outcomes to rows. A pure function of the records' content, so all ranks build the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise

import numpy as np

from finetune_trainer.data.chunks import Ints
from finetune_trainer.data.columns import Outcomes, positions
from finetune_trainer.data.pack import best_fit
from finetune_trainer.data.rows import Counters, RecordId, Row
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

    rows: list[Row]
    counters: Counters
    bad: list[Quarantined]


class BlockBuilder:
    """Builds blocks with one set of settings."""

    def __init__(self, settings: DataSettings) -> None:
        self._settings = settings

    def build(self, outcomes: Outcomes, *, substitute: bool) -> BlockRows:
        """Rows of `outcomes`, packed if asked for; a bad record is replaced by the next good one, or left out."""
        used = outcomes.take(positions(outcomes, substitute=substitute)) if outcomes.refused else outcomes
        refused = sorted(outcomes.refused.items())
        bad = [Quarantined(outcomes.records[n], why.reason, why.excerpt) for n, why in refused]
        replaced = len(bad) if substitute and len(used.tokens) else 0
        counters = _added(outcomes.counted.values())
        counters += Counters(records=len(outcomes), bad=len(bad), substituted=replaced)
        return BlockRows(self._rows(used), counters, bad)

    def _rows(self, outcomes: Outcomes) -> list[Row]:
        """All rows' tokens are gathered at once, and each row is a part of them."""
        lengths = outcomes.tokens.lengths
        if not len(lengths):
            return []
        groups = self._groups(outcomes, lengths)
        order = np.array(list(chain.from_iterable(groups)))
        ids, trained = outcomes.tokens.take(order).values, outcomes.trained.take(order).values
        lengths = lengths[order]
        ends, sizes = np.cumsum(lengths), lengths.tolist()
        owners = np.repeat(np.arange(len(outcomes)), outcomes.pieces)[order]
        records = np.array(outcomes.records, dtype=object)[owners].tolist()
        targets = None if outcomes.targets is None else outcomes.targets[owners]
        weights = None if outcomes.weights is None else outcomes.weights.take(order).values
        pieces = [0, *accumulate(len(group) for group in groups)]
        rows = [0, *ends[np.array(pieces[1:]) - 1].tolist()]
        cuts = [slice(start, end) for start, end in pairwise(rows)]
        return [
            Row(
                ids[cut],
                trained[cut],
                tuple(sizes[first:last]),
                tuple(records[first:last]),
                int(np.count_nonzero(trained[cut])),
                None if targets is None else targets[first:last],
                None if weights is None else weights[cut],
            )
            for cut, (first, last) in zip(cuts, pairwise(pieces), strict=True)
        ]

    def _groups(self, outcomes: Outcomes, lengths: Ints) -> list[list[int]]:
        """The pieces of each row, by their numbers; those of a pair share one, side by side."""
        alone, longest = self._settings.packing is Packing.NONE, self._settings.max_length
        if not self._settings.paired:
            return [[n] for n in range(len(lengths))] if alone else best_fit(lengths.tolist(), longest)
        ends = np.cumsum(outcomes.pieces).tolist()
        pairs = [list(range(start, end)) for start, end in pairwise([0, *ends]) if end > start]
        if alone:
            return pairs
        sizes = np.add.reduceat(lengths, [pair[0] for pair in pairs])
        packed = best_fit(sizes.tolist(), longest)
        return [[piece for pair in row for piece in pairs[pair]] for row in packed]


def shuffled(block: BlockRows, order: Ints) -> BlockRows:
    """The block with its rows in another order."""
    return BlockRows([block.rows[i] for i in order.tolist()], block.counters, block.bad)


def _added(counted: Iterable[Counters]) -> Counters:
    """Their sum, without an object for each on the way."""
    totals = dict.fromkeys(Counters.model_fields, 0)
    for one in counted:
        for name, number in one:
            totals[name] += number
    return Counters(**totals)
