"""The order of an epoch, version 1, of all chunks at once: what `EpochOrder` computes where it is asked."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data import order
from finetune_trainer.data.bijection import derive_key, permutation
from finetune_trainer.data.chunks import ChunkTable, Ints, counts, share_of
from finetune_trainer.data.copies import LANES


@dataclass(frozen=True)
class EagerOrder:
    """Chunk, number of the copy and records taken, int64[parts] each, in reading order; `bounds`: int64[blocks + 1],
    the first part of each block, and the end.
    """

    chunk: Ints
    copy: Ints
    taken: Ints
    bounds: Ints

    @property
    def parts(self) -> list[tuple[int, int, int]]:
        """Every part's chunk, copy and records."""
        return list(zip(self.chunk.tolist(), self.copy.tolist(), self.taken.tolist(), strict=True))


def eager_order(table: ChunkTable, seed: int, epoch: int) -> EagerOrder:
    """The order of epoch `epoch` (from 0) under `seed`; takes time and memory in proportion to the number of chunks."""
    parts = _weighted(table, epoch)
    merged = _merged(table, *parts, seed, epoch)
    chunk, copy, taken = (column[merged] for column in parts)
    size = (table.size[chunk] * taken) // np.maximum(table.records[chunk], 1)
    return EagerOrder(chunk, copy, taken, _block_bounds(taken, size))


def _weighted(table: ChunkTable, epoch: int) -> tuple[Ints, Ints, Ints]:
    """Chunk, copy and number of records taken, for every appearance of a chunk in the epoch."""
    parts: list[tuple[Ints, Ints, Ints]] = []
    for source, weight in enumerate(table.weights):
        chunks = np.flatnonzero(table.source == source).astype(np.int64)
        for copy in range(int(weight)):
            parts.append((chunks, np.full_like(chunks, copy), table.records[chunks]))
        first = table.start[chunks] + epoch
        taken = counts(first, first + table.records[chunks], share_of(weight))
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
        by_records = bisect_right(record_ends, read[0] + order.BLOCK_RECORDS, bounds[-1])
        by_size = bisect_right(size_ends, read[1] + order.BLOCK_BYTES, bounds[-1])
        end = max(bounds[-1] + 1, min(by_records, by_size))  # a chunk above the limits is a block of its own
        bounds.append(end)
        read = (record_ends[end - 1], size_ends[end - 1])
    return np.array(bounds, dtype=np.int64)
