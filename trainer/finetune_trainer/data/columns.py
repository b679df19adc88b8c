"""What became of the records of a block, in columns: so little as possible is done once per record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.chunks import Ints
from finetune_trainer.data.overlong import Fitted
from finetune_trainer.data.rows import IGNORED, Counters, RecordId

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a record cannot be used, and its beginning; content, for the tenant's own storage only."""

    reason: str
    excerpt: str


Result = Fitted | Refused


@dataclass(frozen=True)
class Outcomes:
    """R records that became P pieces, in order.

    `records`: their ids. `pieces` int64[R]: how many each became. `tokens`, `trained`: P arrays each, the ids of a
    piece's tokens (any integer type) and which of them are trained (bool). `counted`: what was counted of those that
    were longer than a row, by position. `refused`: why those that cannot be used cannot, by position.
    """

    records: Sequence[RecordId]
    pieces: Ints
    tokens: Sequence[NDArray[Any]]
    trained: Sequence[NDArray[np.bool_]]
    counted: Mapping[int, Counters]
    refused: Mapping[int, Refused]

    @classmethod
    def of(cls, results: Iterable[tuple[RecordId, Result]]) -> Outcomes:
        """Of records that became these results."""
        records, found = tuple(zip(*results, strict=True)) or ((), ())
        documents = [result.pieces if isinstance(result, Fitted) else () for result in found]
        pieces = list(chain.from_iterable(documents))
        return cls(
            records,
            np.array([len(own) for own in documents], dtype=np.int64),
            [piece.input_ids for piece in pieces],
            [piece.labels != IGNORED for piece in pieces],
            {n: one.counters for n, one in enumerate(found) if isinstance(one, Fitted) and one.counters is not None},
            {n: one for n, one in enumerate(found) if isinstance(one, Refused)},
        )

    @classmethod
    def joined(cls, parts: Sequence[Outcomes]) -> Outcomes:
        """One behind the other."""
        starts = list(accumulate((len(part) for part in parts), initial=0))
        return cls(
            [record for part in parts for record in part.records],
            np.concatenate([np.zeros(0, dtype=np.int64), *(part.pieces for part in parts)]),
            [piece for part in parts for piece in part.tokens],
            [piece for part in parts for piece in part.trained],
            {start + n: one for start, part in zip(starts, parts, strict=False) for n, one in part.counted.items()},
            {start + n: one for start, part in zip(starts, parts, strict=False) for n, one in part.refused.items()},
        )

    def __len__(self) -> int:
        return len(self.records)

    def take(self, positions: Ints) -> Outcomes:
        """Those at `positions`, in that order."""
        counts = self.pieces[positions]
        before = np.cumsum(self.pieces) - self.pieces
        first = before[positions] - (np.cumsum(counts) - counts)
        pieces = (np.repeat(first, counts) + np.arange(counts.sum())).tolist()
        order = positions.tolist()
        return Outcomes(
            [self.records[n] for n in order],
            counts,
            [self.tokens[n] for n in pieces],
            [self.trained[n] for n in pieces],
            _moved(self.counted, order),
            _moved(self.refused, order),
        )


def positions(outcomes: Outcomes, *, substitute: bool) -> Ints:
    """Whose documents stand at each position: the outcome's own, or those of the next one, cyclic, that has any.

    Only bad records are substituted; without that their positions are left out.
    """
    found = np.arange(len(outcomes))
    if not outcomes.refused:
        return found
    bad = np.array(sorted(outcomes.refused))
    usable = np.flatnonzero(outcomes.pieces)
    if not substitute or not len(usable):
        return np.delete(found, bad)
    found[bad] = usable[np.searchsorted(usable, bad) % len(usable)]
    return found


def _moved(values: Mapping[int, Value], order: Sequence[int]) -> dict[int, Value]:
    return {new: values[old] for new, old in enumerate(order) if old in values} if values else {}
