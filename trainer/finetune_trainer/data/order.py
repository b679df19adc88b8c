"""The order of all records of an epoch: a pure function of the chunk table, the seed and the epoch.

1. Every chunk enters once per whole unit of its source's weight, and once more, with a share of its records, for the
   rest.
2. Chunks that can be read on their own are permuted. The others belong to segments that are read front to back (a
   compressed file, a large Parquet row group): segments are permuted, and `LANES` at a time are interleaved in
   proportion to their lengths, so that one file per topic does not mean one topic at a time. Both sequences are merged
   in proportion to their records.
3. Consecutive chunks form a shuffle block of at most `BLOCK_RECORDS` records and `BLOCK_BYTES` bytes, in which records
   are permuted. A block is the unit of reading, packing and resuming: nothing reaches over its borders.

Nothing is computed before it is asked for: a block costs the same in any epoch of any size, if it is told where it
begins (`BlockStart`). Any change to what this file, `chunks` and `copies` compute is a new `STATE_VERSION`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from heapq import merge
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from finetune_trainer.data.bijection import derive_key, permutation
from finetune_trainer.data.chunks import ChunkTable, Ints, chosen, records_seen, share_of
from finetune_trainer.data.copies import AloneCopies, BoundCopies, ChunkPart, EpochCopies

BLOCK_RECORDS = 4096
BLOCK_BYTES = 32 << 20


class BlockStart(NamedTuple):
    """Where a block begins, so that nothing before it need be computed.

    `alone` chunks that stand alone come before it, with `alone_records` records, and `bound_records` records of
    segments; the next chunk of a segment is number `place` of group `lanes` of segments.
    """

    alone: int = 0
    alone_records: int = 0
    lanes: int = 0
    place: int = 0
    bound_records: int = 0

    @property
    def records(self) -> int:
        """Records of the epoch that come before the block."""
        return self.alone_records + self.bound_records


@dataclass(frozen=True)
class Block:
    """A shuffle block: its number in the order's epoch, where it begins, the chunks in the order they are read, and
    where the next one begins, if there is one.
    """

    order: Order
    number: int
    start: BlockStart
    parts: tuple[ChunkPart, ...]
    following: BlockStart | None

    @cached_property
    def records(self) -> int:
        """Number of records in it."""
        return sum(part.records for part in self.parts)


class Step(NamedTuple):
    """A chunk, and what it makes of the start in front of it."""

    part: ChunkPart
    behind: BlockStart


class Order(ABC):
    """One pass over a table, cut into blocks."""

    def __init__(self, table: ChunkTable, seed: int, epoch: int) -> None:
        self.table = table
        self.seed = seed
        self.epoch = epoch

    @property
    @abstractmethod
    def source_records(self) -> list[int]:
        """Number of records seen of each source, copies counted."""

    @abstractmethod
    def steps(self, start: BlockStart) -> Iterator[Step]:
        """The chunks from `start` on, in the order they are read."""

    @cached_property
    def records(self) -> int:
        """Number of records seen in this pass, copies counted; asked for with every batch."""
        return sum(self.source_records)

    def blocks(self, number: int = 0, start: BlockStart | None = None) -> Iterator[Block]:
        """The blocks from `number` on, which begins at `start`; without that, those before it are computed too."""
        at = 0 if start is None else number
        for block in self._cut(at, start or BlockStart()):
            if block.number >= number:
                yield block

    def selection(self, part: ChunkPart) -> Ints:
        """Positions within the chunk of the records that are taken, ascending: int64[part.records]."""
        held, weight = int(self.table.records[part.chunk]), self.table.weight(part.chunk)
        if part.records == held and part.copy < int(weight):
            return np.arange(held, dtype=np.int64)
        # Which records a share means is fixed by a permutation that no epoch changes, so that epochs take turns.
        rank = permutation(derive_key(self.seed, "share", part.chunk), held) + self.table.start[part.chunk]
        return np.flatnonzero(chosen(rank + self.epoch, share_of(weight)))

    def shuffle(self, block: Block) -> Ints:
        """The order of a block's records: int64[records of the block], indices into its parts' selections one after
        another.
        """
        return permutation(derive_key(self.seed, self.epoch, "records", block.number), block.records)

    def shuffle_rows(self, block: Block, rows: int) -> Ints:
        """The order of the rows packed from a block, so that a row's place does not tell its lengths: int64[rows]."""
        return permutation(derive_key(self.seed, self.epoch, "rows", block.number), rows)

    def next_use(self, part: ChunkPart) -> float:
        """When the chunk of a part is read next, in epochs from the first: in this one where another copy follows, else
        some time in the next.
        """
        return self.epoch + 1.0

    def _cut(self, number: int, start: BlockStart) -> Iterator[Block]:
        parts: list[ChunkPart] = []
        records = size = 0
        behind = start
        for part, after in self.steps(start):
            own = int(self.table.size[part.chunk]) * part.records // max(int(self.table.records[part.chunk]), 1)
            # A chunk above the limits is a block of its own.
            if parts and (records + part.records > BLOCK_RECORDS or size + own > BLOCK_BYTES):
                yield Block(self, number, start, tuple(parts), behind)
                number, start, parts, records, size = number + 1, behind, [], 0, 0
            parts.append(part)
            records, size, behind = records + part.records, size + own, after
        if parts:
            yield Block(self, number, start, tuple(parts), None)


class EpochOrder(Order):
    """Epoch `epoch` (from 0) of training data under `seed`."""

    def __init__(self, table: ChunkTable, seed: int, epoch: int) -> None:
        super().__init__(table, seed, epoch)
        copies = EpochCopies(table, epoch)
        self._alone = AloneCopies(copies, derive_key(seed, epoch, "chunks"))
        self._bound = BoundCopies(copies, derive_key(seed, epoch, "segments"))
        self._repeats = any(weight > 1 for weight in table.weights)

    @property
    def source_records(self) -> list[int]:
        """Number of records seen of each source, copies counted."""
        return records_seen(self.table, self.epoch)

    def steps(self, start: BlockStart) -> Iterator[Step]:
        """The chunks from `start` on, merged by where the middle of each lies among all of its kind."""
        behind = start
        for _, part, place in merge(self._alone_places(start), self._bound_places(start), key=itemgetter(0)):
            if place is None:
                behind = behind._replace(alone=behind.alone + 1, alone_records=behind.alone_records + part.records)
            else:
                lanes, place_in_lanes = place
                records = behind.bound_records + part.records
                behind = behind._replace(lanes=lanes, place=place_in_lanes + 1, bound_records=records)
            yield Step(part, behind)

    def next_use(self, part: ChunkPart) -> float:
        """When the chunk of a part is read next, in epochs from the first: in this one where another copy follows, else
        some time in the next.
        """
        if not self._repeats:
            return super().next_use(part)
        places = self._alone.places(part.chunk) or self._bound.places(part.chunk)
        return self.epoch + min((place for place in places.values() if place > places[part.copy]), default=1.0)

    @cached_property
    def _alone_records(self) -> int:
        return self._alone.records if len(self.table.bound) else self.records

    def _alone_places(self, start: BlockStart) -> Iterator[Placed]:
        end = start.alone_records
        for part in self._alone.parts(start.alone):
            end += part.records
            yield (2 * end - part.records) / (2 * self._alone_records), part, None

    def _bound_places(self, start: BlockStart) -> Iterator[Placed]:
        end, total = start.bound_records, self.records - self._alone_records
        for lanes, place, part in self._bound.parts(start.lanes, start.place):
            end += part.records
            yield (2 * end - part.records) / (2 * total), part, (lanes, place)


class SequentialOrder(Order):
    """Every chunk once, in the order of the table: how held-out data is read."""

    def __init__(self, table: ChunkTable) -> None:
        super().__init__(table, 0, 0)

    @property
    def source_records(self) -> list[int]:
        """Number of records of each source."""
        return self.table.source_records

    def steps(self, start: BlockStart) -> Iterator[Step]:
        """The chunks from `start` on; all count as standing alone."""
        for chunk in range(start.alone, len(self.table)):
            segment = self.table.bound.find(chunk)
            last = segment is None or chunk + 1 == self.table.bound.end[segment]
            part = ChunkPart(chunk, 0, int(self.table.records[chunk]), last)
            start = start._replace(alone=chunk + 1, alone_records=start.alone_records + part.records)
            yield Step(part, start)


Placed = tuple[float, ChunkPart, tuple[int, int] | None]
"""Where in [0, 1] the middle of a chunk lies among all that stand alone, or among those of segments; the chunk; the
latter's group of segments and place in it.
"""


def epoch_records(table: ChunkTable, epoch: int) -> int:
    """Number of records of an epoch: the sum over sources of records x weight, each to within one record."""
    return sum(records_seen(table, epoch))
