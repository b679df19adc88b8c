"""The chunks of a data set, and which of them an epoch takes how often."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Chunks = range | Ints
"""Numbers of chunks, ascending: a range wherever that says it, for then nothing is in proportion to their number."""


def before(chunks: Chunks, numbers: Ints | int) -> Ints:
    """How many of `chunks` come before each of `numbers`."""
    if isinstance(chunks, range):
        return np.asarray(np.clip(np.asarray(numbers) - chunks.start, 0, len(chunks)), dtype=np.int64)
    return np.asarray(np.searchsorted(chunks, numbers), dtype=np.int64)


def among(chunks: Chunks, chunk: int) -> bool:
    """Whether `chunk` is one of them."""
    place = int(before(chunks, chunk))
    return place < len(chunks) and int(chunks[place]) == chunk


@dataclass(frozen=True)
class Segments:
    """Segments of more than one chunk, in order; int64[segments] each: first chunk, one behind the last, source."""

    first: Ints
    end: Ints
    source: Ints

    def __len__(self) -> int:
        return len(self.first)

    def find(self, chunk: int) -> int | None:
        """The number of the one that a chunk belongs to, if any."""
        found = int(np.searchsorted(self.first, chunk, side="right")) - 1
        return found if found >= 0 and chunk < self.end[found] else None


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
    def ranges(self) -> list[range]:
        """The chunks of each source."""
        bounds = np.searchsorted(self.source, range(len(self.weights) + 1)).tolist()
        return [range(start, end) for start, end in pairwise(bounds)]

    @cached_property
    def source_records(self) -> list[int]:
        """Records of each source."""
        return [int(self.records[chunks.start : chunks.stop].sum()) for chunks in self.ranges]

    @cached_property
    def start(self) -> Ints:
        """Position of the chunk's first record within its source."""
        ends = [np.cumsum(self.records[chunks.start : chunks.stop]) for chunks in self.ranges]
        return np.asarray(np.concatenate(ends) - self.records, dtype=np.int64)

    @cached_property
    def bound(self) -> Segments:
        """The segments that have to be read front to back, because they are of more than one chunk."""
        if np.all(self.segment[1:] != self.segment[:-1]):
            none = np.zeros(0, dtype=np.int64)
            return Segments(none, none, none)
        first, end = self._segment_bounds
        several = end - first > 1
        return Segments(first[several], end[several], self.source[first[several]])

    @cached_property
    def alone(self) -> list[Chunks]:
        """The chunks of each source that can be read on their own."""
        if not len(self.bound):
            return list(self.ranges)
        first, end = self._segment_bounds
        single = first[end - first == 1]
        bounds = np.searchsorted(single, [(chunks.start, chunks.stop) for chunks in self.ranges])
        return [single[start:stop] for start, stop in bounds]

    def weight(self, chunk: int) -> float:
        """How often the records of a chunk are seen per epoch."""
        return self.weights[int(self.source[chunk])]

    @cached_property
    def _segment_bounds(self) -> tuple[Ints, Ints]:
        inner = np.flatnonzero(self.segment[1:] != self.segment[:-1]) + 1
        return np.concatenate([[0], inner]), np.concatenate([inner, [len(self)]])


def shared_chunks(table: ChunkTable, source: int, epoch: int) -> Chunks:
    """The chunks of which the epoch takes a share for the part of the source's weight after the point, if any."""
    share, chunks = share_of(table.weights[source]), table.ranges[source]
    if not share or not chunks:
        return range(0)
    if int(table.records[chunks.start : chunks.stop].min()) * share >= 1:  # each holds a chosen one, whatever the epoch
        return chunks
    taken = share_counts(table, np.arange(chunks.start, chunks.stop), epoch)
    return np.asarray(np.flatnonzero(taken) + chunks.start, dtype=np.int64)


def share_counts(table: ChunkTable, chunks: Ints, epoch: int) -> Ints:
    """How many records of each of these chunks, all of one source, the epoch takes for its share: int64[chunks]."""
    first = table.start[chunks] + epoch
    return counts(first, first + table.records[chunks], share_of(table.weight(chunks[0]))) if len(chunks) else chunks


def share_of(weight: float) -> Fraction:
    """The part of a weight after the point, as a fraction, so that counting is exact."""
    return Fraction(weight - int(weight)).limit_denominator(1_000_000)


def chosen(numbers: Ints, share: Fraction) -> NDArray[np.bool_]:
    """Which integers belong to the evenly spaced `share` of all: of any run of n, n x share to within one.

    n is chosen when a multiple of 1 lies in ((n - 1) x share, n x share]: a Beatty sequence. A record's number goes up
    by one per epoch, so a share of 1/k takes every record exactly once in k epochs.
    """
    p, q = share.numerator, share.denominator
    return (numbers % q) * p % q < p


def counts(first: Ints, end: Ints, share: Fraction) -> Ints:
    """How many of first ... end - 1 are chosen; exact for numbers below 9e12."""
    p, q = share.numerator, share.denominator
    return (end - 1) * p // q - (first - 1) * p // q


def records_seen(table: ChunkTable, epoch: int) -> list[int]:
    """Records of each source that an epoch sees, copies counted: records x weight, each to within one record."""
    found = []
    for held, weight in zip(table.source_records, table.weights, strict=True):
        share = int(counts(np.array(epoch), np.array(epoch + held), share_of(weight)))
        found.append(held * int(weight) + share)
    return found
