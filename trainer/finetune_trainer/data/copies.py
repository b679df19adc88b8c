"""The copies of chunks that an epoch reads: those of chunks that stand alone, and those of segments, each in its order.

Either sequence is evaluated where it is asked for: a place in it costs the same at the end of an epoch as at its start.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from finetune_trainer.data.bijection import permute
from finetune_trainer.data.chunks import Chunks, ChunkTable, Ints, among, before, share_counts, shared_chunks

LANES = 8
AT_ONCE = 64
"""Places that are permuted together: a call of numpy costs as much as some tens of them."""


@dataclass(frozen=True, slots=True)
class ChunkPart:
    """A chunk within a block: its index in the table, which copy of it, how many of its records are taken, and whether
    the epoch takes no more of this copy of its segment.
    """

    chunk: int
    copy: int
    records: int
    last: bool


class EpochCopies:
    """Which copies of which chunks an epoch reads: one per whole unit of the source's weight, and a share of some."""

    def __init__(self, table: ChunkTable, epoch: int) -> None:
        self.table = table
        self.epoch = epoch
        self.shared = [shared_chunks(table, source, epoch) for source in range(len(table.weights))]

    def part(self, chunk: int, copy: int, *, last: bool = True) -> ChunkPart:
        """A copy of a chunk."""
        if copy < int(self.table.weight(chunk)):
            return ChunkPart(chunk, copy, int(self.table.records[chunk]), last)
        return ChunkPart(chunk, copy, int(share_counts(self.table, np.array([chunk]), self.epoch)[0]), last)

    def copies(self, chunk: int) -> range:
        """The numbers of the copies of a chunk."""
        return range(int(self.table.weight(chunk)) + among(self.shared[int(self.table.source[chunk])], chunk))


class Group(NamedTuple):
    """The same copy of chunks of one source; the first one's number among all copies of chunks that stand alone."""

    first: int
    copy: int
    chunks: Chunks


class AloneCopies:
    """The copies of chunks that can be read on their own, permuted."""

    def __init__(self, copies: EpochCopies, key: bytes) -> None:
        self._copies = copies
        self._key = key
        self._groups: list[Group] = []
        self._size = 0
        for source, alone in enumerate(copies.table.alone):
            whole = int(copies.table.weights[source])
            shared = copies.shared[source]
            if len(copies.table.bound):
                shared = alone if isinstance(shared, range) and shared else np.intersect1d(shared, alone)
            for copy, chunks in [*((copy, alone) for copy in range(whole)), (whole, shared)]:
                self._groups.append(Group(self._size, copy, chunks))
                self._size += len(chunks)

    @cached_property
    def records(self) -> int:
        """Records of all of them."""
        table, total = self._copies.table, 0
        for _, copy, chunks in self._groups:
            numbers = np.asarray(chunks, dtype=np.int64)
            whole = not len(numbers) or copy < int(table.weight(numbers[0]))
            total += int((table.records[numbers] if whole else share_counts(table, numbers, self._copies.epoch)).sum())
        return total

    def parts(self, start: int) -> Iterator[ChunkPart]:
        """Those from place `start` on."""
        while start < self._size:
            places = np.arange(start, min(start + AT_ONCE, self._size))
            for number in permute(self._key, self._size, places).tolist():
                group = next(group for group in reversed(self._groups) if group.first <= number)
                yield self._copies.part(int(group.chunks[number - group.first]), group.copy)
            start += len(places)

    def places(self, chunk: int) -> dict[int, float]:
        """Where in [0, 1) the copies of a chunk stand, by their number."""
        found = {}
        for first, copy, chunks in self._groups:
            if among(chunks, chunk):
                number = np.array([first + int(before(chunks, chunk))])
                found[copy] = int(permute(self._key, self._size, number, inverse=True)[0]) / self._size
        return found


class BoundCopies:
    """The copies of segments of more than one chunk: permuted, and `LANES` of them at a time side by side, each one
    front to back and as far as the others.
    """

    def __init__(self, copies: EpochCopies, key: bytes) -> None:
        self._copies = copies
        self._key = key
        segments = self._segments = copies.table.bound
        each = np.zeros(len(segments), dtype=np.int64)
        for source, weight in enumerate(copies.table.weights):
            mine = np.flatnonzero(segments.source == source)
            each[mine] = int(weight)
            shared = copies.shared[source]
            each[mine] += before(shared, segments.end[mine]) > before(shared, segments.first[mine])
        self._bounds = np.concatenate([[0], np.cumsum(each)])
        self._size = int(self._bounds[-1])

    def parts(self, lanes: int, start: int) -> Iterator[tuple[int, int, ChunkPart]]:
        """Those from place `start` of group `lanes` of `LANES` segments on, each with its group and its place there."""
        while lanes * LANES < self._size:
            chunk, copy, last = self._side_by_side(lanes)
            for place in range(start, len(chunk)):
                yield lanes, place, self._copies.part(int(chunk[place]), int(copy[place]), last=bool(last[place]))
            lanes, start = lanes + 1, 0

    def places(self, chunk: int) -> dict[int, float]:
        """Where in [0, 1) the copies of a chunk stand, by their number, about."""
        segment = self._segments.find(chunk)
        if segment is None:
            return {}
        found = {}
        for copy in self._copies.copies(chunk):
            rank = int(permute(self._key, self._size, self._bounds[segment : segment + 1] + copy)[0])
            chunks = self._chunks(segment, copy)
            progress = (int(before(chunks, chunk)) + rank % LANES / LANES) / len(chunks)
            found[copy] = (rank // LANES + progress) * LANES / (self._size + LANES)
        return found

    def _side_by_side(self, lanes: int) -> tuple[Ints, Ints, Ints]:
        """Chunk, number of the copy and whether it is the segment's last, for every part of a group of segments."""
        ranks = np.arange(lanes * LANES, min((lanes + 1) * LANES, self._size))
        numbers = permute(self._key, self._size, ranks, inverse=True)
        segments = np.searchsorted(self._bounds, numbers, side="right") - 1
        copies = numbers - self._bounds[segments]
        chunks = [self._chunks(*one) for one in zip(segments.tolist(), copies.tolist(), strict=True)]
        lengths = [len(one) for one in chunks]
        within = np.concatenate([np.arange(length) for length in lengths])
        length, lane = np.repeat(lengths, lengths), np.repeat(np.arange(len(ranks)), lengths)
        order = np.lexsort((lane, (2 * within + 1) / (2 * length)))
        return np.concatenate(chunks)[order], copies[lane][order], (within == length - 1)[order]

    def _chunks(self, segment: int, copy: int) -> Ints:
        """The chunks of a copy of a segment, front to back."""
        first, end = int(self._segments.first[segment]), int(self._segments.end[segment])
        if copy < int(self._copies.table.weight(first)):
            return np.arange(first, end)
        shared = self._copies.shared[int(self._segments.source[segment])]
        return np.asarray(shared[slice(*before(shared, np.array([first, end])).tolist())], dtype=np.int64)
