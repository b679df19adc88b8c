"""The order of all records of an epoch: a pure function of the chunk table, the seed and the epoch.

1. Every chunk enters once per whole unit of its source's weight, and once more, with a share of its records, for the
   rest.
2. Chunks that can be read on their own are permuted. The others belong to segments that are read front to back (a
   compressed file, a large Parquet row group): segments are permuted, and `LANES` at a time are interleaved in
   proportion to their lengths, so that one file per topic does not mean one topic at a time. Both sequences are merged
   in proportion to their records.
3. Consecutive chunks form a shuffle block of at most `BLOCK_RECORDS` records and `BLOCK_BYTES` bytes, in which records
   are permuted. A block is the unit of reading, packing and resuming: nothing reaches over its borders.

Any change to what this file computes is a new `STATE_VERSION`.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.bijection import derive_key, permutation

BLOCK_RECORDS = 4096
BLOCK_BYTES = 32 << 20
LANES = 8

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ChunkTable:
    """Every chunk of a data set, in the order of sources, files and positions; all arrays int64[chunks].

    `source`: index of the chunk's source. `segment`: which run of chunks it belongs to; chunks of one segment are
    contiguous and can only be read front to back. `records`, `size` (bytes): what it holds. `weights`: one per source.
    """

    source: Ints
    segment: Ints
    records: Ints
    size: Ints
    weights: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def source_records(self) -> list[int]:
        """Records of each source."""
        return [int(self.records[self.source == source].sum()) for source in range(len(self.weights))]

    @cached_property
    def start(self) -> Ints:
        """Position of the chunk's first record within its source."""
        before = np.cumsum(self.records) - self.records
        first_chunk = np.searchsorted(self.source, self.source, side="left")
        return np.asarray(before - before[first_chunk], dtype=np.int64)


@dataclass(frozen=True)
class ChunkPart:
    """A chunk within a block: its index in the table, which copy of it, how many of its records are taken, and whether
    the epoch takes no more of this copy of its segment.
    """

    chunk: int
    copy: int
    records: int
    last: bool


@dataclass(frozen=True)
class EpochOrder:
    """One epoch: parts in order, cut into blocks. Arrays int64; `bounds` holds the first part of each block and the
    end.
    """

    table: ChunkTable
    seed: int
    epoch: int
    chunk: Ints
    copy: Ints
    taken: Ints
    bounds: Ints

    @property
    def blocks(self) -> int:
        """Number of shuffle blocks."""
        return len(self.bounds) - 1

    @cached_property
    def records(self) -> int:
        """Number of records seen in this epoch, copies counted."""
        return int(self.taken.sum())

    @cached_property
    def records_before(self) -> Ints:
        """int64[blocks + 1]: records of the epoch that come before each block, and all of them."""
        return np.concatenate([[0], np.cumsum(self.taken)])[self.bounds]

    def parts(self, block: int) -> list[ChunkPart]:
        """The chunks of a block, in the order they are read."""
        span = slice(self.bounds[block], self.bounds[block + 1])
        columns = (column[span].tolist() for column in (self.chunk, self.copy, self.taken, self._last))
        return [ChunkPart(*values) for values in zip(*columns, strict=True)]

    def selection(self, part: ChunkPart) -> Ints:
        """Positions within the chunk of the records that are taken, ascending: int64[part.records]."""
        held = int(self.table.records[part.chunk])
        if part.records == held and part.copy < int(self._weight(part.chunk)):
            return np.arange(held, dtype=np.int64)
        # Which records a share means is fixed by a permutation that no epoch changes, so that epochs take turns.
        rank = permutation(derive_key(self.seed, "share", part.chunk), held) + self.table.start[part.chunk]
        return np.flatnonzero(_chosen(rank + self.epoch, _share(self._weight(part.chunk))))

    def shuffle(self, block: int) -> Ints:
        """The order of a block's records: int64[records of the block], indices into its parts' selections one after
        another.
        """
        size = int(self.records_before[block + 1] - self.records_before[block])
        return permutation(derive_key(self.seed, self.epoch, "records", block), size)

    def shuffle_rows(self, block: int, rows: int) -> Ints:
        """The order of the rows packed from a block, so that a row's place does not tell its lengths: int64[rows]."""
        return permutation(derive_key(self.seed, self.epoch, "rows", block), rows)

    def next_use(self, part: int) -> int:
        """When the chunk of part `part` of the epoch is read next, a count that rises over epochs: in this one where
        another copy follows, else some time in the next.
        """
        parts = len(self.chunk)
        return self.epoch * (parts + 1) + (int(self._next[part]) if self._repeats else parts)

    @cached_property
    def _repeats(self) -> bool:
        return any(weight > 1 for weight in self.table.weights)

    @cached_property
    def _next(self) -> Ints:
        """For every part, the next one of the same chunk, or the number of parts where it is the last."""
        by_chunk = np.argsort(self.chunk, kind="stable")
        following = np.full(len(by_chunk), len(by_chunk), dtype=np.int64)
        same = np.flatnonzero(self.chunk[by_chunk[:-1]] == self.chunk[by_chunk[1:]])
        following[by_chunk[same]] = by_chunk[same + 1]
        return following

    @cached_property
    def _last(self) -> NDArray[np.bool_]:
        """For every part, whether its copy of its segment has none behind it."""
        last = _alone(self.table, self.chunk)
        bound = np.flatnonzero(~last)
        if len(bound):
            runs = _runs(self.table.segment[self.chunk[bound]], self.copy[bound])
            _, from_the_end = np.unique(runs[::-1], return_index=True)
            last[bound[len(bound) - 1 - from_the_end]] = True
        return last

    def _weight(self, chunk: int) -> float:
        return self.table.weights[int(self.table.source[chunk])]


def epoch_records(table: ChunkTable, epoch: int) -> int:
    """Number of records of an epoch: the sum over sources of records x weight, each to within one record."""
    total = 0
    for held, weight in zip(table.source_records, table.weights, strict=True):
        total += held * int(weight) + int(_counts(np.array(epoch), np.array(epoch + held), _share(weight)))
    return total


def order_epoch(table: ChunkTable, seed: int, epoch: int) -> EpochOrder:
    """The order of epoch `epoch` (from 0) under `seed`; takes time and memory in proportion to the number of chunks."""
    parts = _weighted(table, epoch)
    order = _merged(table, *parts, seed, epoch)
    chunk, copy, taken = (column[order] for column in parts)
    size = (table.size[chunk] * taken) // np.maximum(table.records[chunk], 1)
    return EpochOrder(table, seed, epoch, chunk, copy, taken, _block_bounds(taken, size))


def sequential_order(table: ChunkTable) -> EpochOrder:
    """Every chunk once, in the order of the table, cut into blocks: how held-out data is read."""
    chunk = np.arange(len(table), dtype=np.int64)
    bounds = _block_bounds(table.records, table.size)
    return EpochOrder(table, 0, 0, chunk, np.zeros_like(chunk), table.records, bounds)


def _weighted(table: ChunkTable, epoch: int) -> tuple[Ints, Ints, Ints]:
    """Chunk, copy and number of records taken, for every appearance of a chunk in the epoch."""
    parts: list[tuple[Ints, Ints, Ints]] = []
    for source, weight in enumerate(table.weights):
        chunks = np.flatnonzero(table.source == source).astype(np.int64)
        for copy in range(int(weight)):
            parts.append((chunks, np.full_like(chunks, copy), table.records[chunks]))
        first = table.start[chunks] + epoch
        taken = _counts(first, first + table.records[chunks], _share(weight))
        some = np.flatnonzero(taken)
        parts.append((chunks[some], np.full_like(some, int(weight)), taken[some]))
    columns = tuple(np.concatenate(column) for column in zip(*parts, strict=True))
    return columns[0], columns[1], columns[2]


def _merged(table: ChunkTable, chunk: Ints, copy: Ints, taken: Ints, seed: int, epoch: int) -> Ints:
    """Indices of the appearances in reading order."""
    alone = _alone(table, chunk)
    free, bound = np.flatnonzero(alone), np.flatnonzero(~alone)
    free = free[permutation(derive_key(seed, epoch, "chunks"), len(free))]
    bound = bound[_interleaved(table.segment[chunk[bound]], copy[bound], derive_key(seed, epoch, "segments"))]
    place = np.concatenate([_midpoints(taken[free]), _midpoints(taken[bound])])
    return np.concatenate([free, bound])[np.argsort(place, kind="stable")]


def _alone(table: ChunkTable, chunk: Ints) -> NDArray[np.bool_]:
    """Which of the chunks can be read on their own."""
    return np.asarray(np.bincount(table.segment)[table.segment[chunk]] == 1, dtype=np.bool_)


def _interleaved(segment: Ints, copy: Ints, key: bytes) -> Ints:
    """Order of chunks that are bound to segments: `LANES` segments side by side, each one front to back."""
    if not len(segment):
        return segment
    _, run, length = np.unique(_runs(segment, copy), return_inverse=True, return_counts=True)
    rank = permutation(key, len(length))[run]
    progress = (2 * _running_count(run) + 1) / (2 * length[run])
    return np.lexsort((rank, progress, rank // LANES))


def _runs(segment: Ints, copy: Ints) -> Ints:
    """A number of its own for every copy of a segment."""
    return np.asarray(segment * (copy.max() + 1) + copy, dtype=np.int64)


def _running_count(run: Ints) -> Ints:
    """For every element, how many equal ones stand before it."""
    by_run = np.argsort(run, kind="stable")
    ordered = run[by_run]
    count = np.empty_like(run)
    count[by_run] = np.arange(len(run)) - np.searchsorted(ordered, ordered, side="left")
    return count


def _midpoints(records: Ints) -> NDArray[np.float64]:
    """Where in [0, 1] the middle of each element lies when `records` are laid end to end."""
    ends = np.cumsum(records)
    return np.asarray((2 * ends - records) / (2 * ends[-1]) if len(ends) else [], dtype=np.float64)


def _block_bounds(records: Ints, size: Ints) -> Ints:
    # Over a memoryview, a search costs a tenth of numpy's, which is made for many at a time.
    record_ends, size_ends = np.cumsum(records).data, np.cumsum(size).data
    bounds, read = [0], (0, 0)
    while bounds[-1] < len(records):
        by_records = bisect_right(record_ends, read[0] + BLOCK_RECORDS, bounds[-1])
        by_size = bisect_right(size_ends, read[1] + BLOCK_BYTES, bounds[-1])
        end = max(bounds[-1] + 1, min(by_records, by_size))  # a chunk above the limits is a block of its own
        bounds.append(end)
        read = (record_ends[end - 1], size_ends[end - 1])
    return np.array(bounds, dtype=np.int64)


def _share(weight: float) -> Fraction:
    """The part of a weight after the point, as a fraction, so that counting is exact."""
    return Fraction(weight - int(weight)).limit_denominator(1_000_000)


def _chosen(numbers: Ints, share: Fraction) -> NDArray[np.bool_]:
    """Which integers belong to the evenly spaced `share` of all: of any run of n, n x share to within one.

    n is chosen when a multiple of 1 lies in ((n - 1) x share, n x share]: a Beatty sequence. A record's number goes up
    by one per epoch, so a share of 1/k takes every record exactly once in k epochs.
    """
    p, q = share.numerator, share.denominator
    return (numbers % q) * p % q < p


def _counts(first: Ints, end: Ints, share: Fraction) -> Ints:
    """How many of first ... end - 1 are chosen; exact for numbers below 9e12."""
    p, q = share.numerator, share.denominator
    return (end - 1) * p // q - (first - 1) * p // q
