"""Rows in columns: made one by one where somebody looks at them, counted without that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.chunks import Ints
from finetune_trainer.data.deal import deal
from finetune_trainer.data.rows import RecordId, Row, Tokens


@dataclass(frozen=True, slots=True)
class RecordIds:
    """Ids of R records, written where somebody looks at them.

    `files`: addresses of files; `file` int64[R]: the record's among them; `number` int64[R]: its number there, from 1.
    """

    files: tuple[str, ...]
    file: Ints
    number: Ints

    @classmethod
    def of(cls, ids: Iterable[RecordId]) -> RecordIds:
        """Of ids that were written."""
        pairs = [(file, int(number)) for file, _, number in (one.rpartition("#") for one in ids)]
        places = {file: place for place, file in enumerate(dict.fromkeys(file for file, _ in pairs))}
        return cls(
            tuple(places),
            np.array([places[file] for file, _ in pairs], dtype=np.int64),
            np.array([number for _, number in pairs], dtype=np.int64),
        )

    @classmethod
    def joined(cls, parts: Sequence[RecordIds]) -> RecordIds:
        """One behind the other; of at least one."""
        files = tuple(dict.fromkeys(file for part in parts for file in part.files))
        places = {file: place for place, file in enumerate(files)}
        moved = [np.array([places[file] for file in part.files], dtype=np.int64)[part.file] for part in parts]
        return cls(files, np.concatenate(moved), np.concatenate([part.number for part in parts]))

    def __len__(self) -> int:
        return len(self.number)

    def __getitem__(self, cut: slice | Ints) -> RecordIds:
        return RecordIds(self.files, self.file[cut], self.number[cut])

    @property
    def written(self) -> list[RecordId]:
        """As text."""
        pairs = zip(self.file.tolist(), self.number.tolist(), strict=True)
        return [f"{self.files[file]}#{number}" for file, number in pairs]


class RowCounts(NamedTuple):
    """Documents, tokens and trained tokens of some rows."""

    documents: int
    tokens: int
    kept_tokens: int


@dataclass(frozen=True)
class RowTable:
    """R rows of D documents of T tokens, end to end.

    `tokens` [T], `trained` bool[T], `weights` float32[T]: as of a `Row`, of all of them; `lengths` int64[D], `records`
    and `targets` float32[D, n]: of their documents. `documents`, `starts` int64[R + 1]: each row's first document and
    first token, and how many there are.
    """

    tokens: Tokens
    trained: NDArray[np.bool_]
    lengths: Ints
    records: RecordIds
    documents: Ints
    starts: Ints
    targets: NDArray[np.float32] | None = None
    weights: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.starts) - 1

    def row(self, number: int) -> Row:
        """One of them: parts of what lies here."""
        starts, documents, lengths, records = self._listed
        tokens = slice(starts[number], starts[number + 1])
        own = slice(documents[number], documents[number + 1])
        return Row(
            self.tokens[tokens],
            self.trained[tokens],
            tuple(lengths[own]),
            tuple(records[own]),
            None if self.targets is None else self.targets[own],
            None if self.weights is None else self.weights[tokens],
        )

    def counts(self, first: int, end: int) -> RowCounts:
        """Of rows `first` to `end`."""
        starts, documents, _, _ = self._listed
        start, stop = starts[first], starts[end]
        kept = int(np.count_nonzero(self.trained[start:stop]))
        return RowCounts(documents[end] - documents[first], stop - start, kept)

    @property
    def whole(self) -> Rows:
        """All of them."""
        return Rows(Part(self, 0, len(self)))

    @cached_property
    def row_lengths(self) -> list[int]:
        """Tokens of each row."""
        lengths: list[int] = np.diff(self.starts).tolist()
        return lengths

    @cached_property
    def _listed(self) -> tuple[list[int], list[int], list[int], list[RecordId]]:
        """`starts`, `documents`, `lengths` and `records`: taking one number off a list is cheaper than off an array."""
        return self.starts.tolist(), self.documents.tolist(), self.lengths.tolist(), self.records.written


class Part(NamedTuple):
    """Rows `first` to `end` of a table."""

    table: RowTable
    first: int
    end: int


class Rows(Sequence[Row]):
    """Rows of tables, part by part, each made where somebody looks at it."""

    def __init__(self, *parts: Part) -> None:
        self._parts = parts
        self.lengths = list(chain.from_iterable(table.row_lengths[first:end] for table, first, end in parts))
        """Tokens of each."""

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.chosen(range(len(self))))

    @overload
    def __getitem__(self, place: int) -> Row: ...

    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...

    def __getitem__(self, place: int | slice) -> Row | list[Row]:
        numbers = range(len(self.lengths))[place]
        return self.chosen([numbers])[0] if isinstance(numbers, int) else self.chosen(numbers)

    def chosen(self, places: Iterable[int]) -> list[Row]:
        """Those at `places`."""
        if len(self._parts) == 1:
            table, first, _ = self._parts[0]
            return [table.row(first + place) for place in places]
        found = [(table, number) for table, first, end in self._parts for number in range(first, end)]
        return [table.row(number) for table, number in map(found.__getitem__, places)]

    def dealt(self, rank: int, world_size: int, micro_batch_size: int) -> list[list[Row]]:
        """A rank's micro-batches of them, as `deal`."""
        return [self.chosen(numbers) for numbers in deal(self.lengths, rank, world_size, micro_batch_size)]

    @property
    def counts(self) -> RowCounts:
        """Of all of them."""
        counted = [table.counts(first, end) for table, first, end in self._parts]
        return counted[0] if len(counted) == 1 else RowCounts(*map(sum, zip(*counted, strict=True)))
