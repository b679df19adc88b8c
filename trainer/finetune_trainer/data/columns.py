"""What became of the records of a block, in columns: as little as possible is done once per record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from math import nan
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from finetune_trainer.data import memory
from finetune_trainer.data.chunks import Ints
from finetune_trainer.data.encode import Document
from finetune_trainer.data.overlong import Fitted
from finetune_trainer.data.row_table import RecordIds
from finetune_trainer.data.rows import IGNORED, Counters, RecordId

Value = TypeVar("Value")

GATHERED = 256
"""Pieces that are gathered at a time."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a record cannot be used, and its beginning; content, for the tenant's own storage only."""

    reason: str
    excerpt: str


Result = Fitted | Refused


@dataclass(frozen=True)
class Pieces:
    """P arrays of one type: parts of `laid`, where they lie end to end, of `sizes` values each, int64.

    `order`: which of those, in which order; all of them where there is none. They are gathered once, by `values`,
    however often the order was changed before.
    """

    laid: NDArray[Any]
    sizes: Ints
    order: Ints | None = None

    @classmethod
    def joined(cls, parts: Sequence[Pieces]) -> Pieces:
        """One behind the other; of types that differ, in the one that holds all values."""
        kind = np.result_type(*(part.laid.dtype for part in parts))
        return cls(memory.joined([part.values for part in parts], kind), np.concatenate([p.lengths for p in parts]))

    def __len__(self) -> int:
        return len(self.sizes if self.order is None else self.order)

    def take(self, order: Ints) -> Pieces:
        """Those at the places `order`, in that order."""
        return Pieces(self.laid, self.sizes, order if self.order is None else self.order[order])

    @property
    def lengths(self) -> Ints:
        """int64[P]."""
        return self.sizes if self.order is None else self.sizes[self.order]

    @property
    def values(self) -> NDArray[Any]:
        """All of them, laid end to end."""
        return self.laid if self.order is None else _gathered(self.laid, self.sizes, self.order)


def _gathered(laid: NDArray[Any], sizes: Ints, order: Ints) -> NDArray[Any]:
    """Some of the parts of `laid`, end to end; Arrow gathers them as if they were strings, without Python."""
    width = laid.dtype.itemsize
    offsets = np.zeros(len(sizes) + 1, dtype=np.int32)
    np.cumsum(sizes * width, out=offsets[1:])
    packed = pa.Array.from_buffers(pa.binary(), len(sizes), [None, pa.py_buffer(offsets), pa.py_buffer(laid)])
    found = memory.empty(int(sizes[order].sum()), laid.dtype)
    end = 0
    for first in range(0, len(order), GATHERED):  # a few at a time, in memory that Arrow has still warm
        few = order[first : first + GATHERED]
        start, end = end, end + int(sizes[few].sum())
        found[start:end] = np.frombuffer(packed.take(pa.array(few)).buffers()[2], laid.dtype, end - start)
    return found


@dataclass(frozen=True)
class Outcomes:
    """R records that became P pieces, in order.

    `records`: their ids. `pieces` int64[R]: how many each became. `tokens`, `trained`: the ids of each piece's tokens
    and which of them are trained (bool). `counted`: what was counted of those that were longer than a row, by position.
    `refused`: why those that cannot be used cannot, by position. `targets` float32[R, n]: what each says besides, NaN
    for nothing. `weights`: how much each token counts (float32), where they differ.
    """

    records: RecordIds
    pieces: Ints
    tokens: Pieces
    trained: Pieces
    counted: Mapping[int, Counters]
    refused: Mapping[int, Refused]
    targets: NDArray[np.float32] | None = None
    weights: Pieces | None = None

    @classmethod
    def of(cls, results: Iterable[tuple[RecordId, Result]]) -> Outcomes:
        """Of records that became these results."""
        records, found = tuple(zip(*results, strict=True)) or ((), ())
        documents = [result.pieces if isinstance(result, Fitted) else () for result in found]
        pieces = list(chain.from_iterable(documents))
        lengths = np.array([len(piece.input_ids) for piece in pieces], dtype=np.int64)
        nothing = np.zeros(0, dtype=np.int32)
        labels = np.concatenate([nothing, *(piece.labels for piece in pieces)])
        return cls(
            RecordIds.of(records),
            np.array([len(own) for own in documents], dtype=np.int64),
            Pieces(np.concatenate([nothing, *(piece.input_ids for piece in pieces)]), lengths),
            Pieces(labels != IGNORED, lengths),
            {n: one.counters for n, one in enumerate(found) if isinstance(one, Fitted) and one.counters is not None},
            {n: one for n, one in enumerate(found) if isinstance(one, Refused)},
            targets_of([result.targets if isinstance(result, Fitted) else () for result in found]),
            Pieces(weights, lengths) if (weights := weights_of(pieces)) is not None else None,
        )

    @classmethod
    def joined(cls, parts: Sequence[Outcomes]) -> Outcomes:
        """One behind the other; of at least one."""
        starts = list(accumulate((len(part) for part in parts), initial=0))
        return cls(
            RecordIds.joined([part.records for part in parts]),
            np.concatenate([part.pieces for part in parts]),
            Pieces.joined([part.tokens for part in parts]),
            Pieces.joined([part.trained for part in parts]),
            {start + n: one for start, part in zip(starts, parts, strict=False) for n, one in part.counted.items()},
            {start + n: one for start, part in zip(starts, parts, strict=False) for n, one in part.refused.items()},
            _joined_targets([(len(part), part.targets) for part in parts]),
            _joined_weights(parts),
        )

    def __len__(self) -> int:
        return len(self.records)

    def take(self, positions: Ints) -> Outcomes:
        """Those at `positions`, in that order."""
        pieces = parts_of(self.pieces, positions)
        order = positions.tolist() if self.counted or self.refused else []
        return Outcomes(
            self.records[positions],
            self.pieces[positions],
            self.tokens.take(pieces),
            self.trained.take(pieces),
            _moved(self.counted, order),
            _moved(self.refused, order),
            None if self.targets is None else self.targets[positions],
            None if self.weights is None else self.weights.take(pieces),
        )


def parts_of(counts: Ints, order: Ints) -> Ints:
    """The numbers of the parts of things of so many parts each, of those at the places `order`, in that order."""
    taken = counts[order]
    first = (np.cumsum(counts) - counts)[order] - (np.cumsum(taken) - taken)
    return np.repeat(first, taken) + np.arange(taken.sum())


def targets_of(found: Sequence[tuple[float, ...]]) -> NDArray[np.float32] | None:
    """float32[R, n] of what R records say, NaN where one says less than others; None if none says anything."""
    most = max(map(len, found), default=0)
    if not most:
        return None
    return np.array([(*values, *(nan,) * (most - len(values))) for values in found], dtype=np.float32)


def weights_of(pieces: Sequence[Document]) -> NDArray[np.float32] | None:
    """The weights of the tokens of all pieces, end to end; None if none has any."""
    if all(piece.weights is None for piece in pieces):
        return None
    return np.concatenate(
        [np.ones(len(p.input_ids), dtype=np.float32) if p.weights is None else p.weights for p in pieces]
    )


def _joined_targets(parts: Sequence[tuple[int, NDArray[np.float32] | None]]) -> NDArray[np.float32] | None:
    most = max((found.shape[1] for _, found in parts if found is not None), default=0)
    if not most:
        return None
    joined = np.full((sum(count for count, _ in parts), most), nan, dtype=np.float32)
    start = 0
    for count, found in parts:
        if found is not None:
            joined[start : start + count, : found.shape[1]] = found
        start += count
    return joined


def _joined_weights(parts: Sequence[Outcomes]) -> Pieces | None:
    if all(part.weights is None for part in parts):
        return None
    found = [(part.weights, part.tokens) for part in parts]
    return Pieces.joined(
        [own or Pieces(np.ones(ids.lengths.sum(), dtype=np.float32), ids.lengths) for own, ids in found]
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
