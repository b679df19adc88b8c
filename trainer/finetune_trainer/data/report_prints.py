"""Fingerprints of records, to find duplicates among them: 540 bytes each, and nothing that tells their content."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data import duplicates
from finetune_trainer.data.encode import Document
from finetune_trainer.data.index import DatasetIndex
from finetune_trainer.data.outcomes import Seen
from finetune_trainer.data.rows import RecordId

Ints = NDArray[np.int64]


def digest(document: Document) -> int:
    """64 bits of BLAKE2b over what the model sees of a record, before anything is cut, and which of it is trained.

    The columns that a format does not read, key order and white space of the JSON are out, and the format itself.
    """
    content = blake2b(document.input_ids.tobytes(), digest_size=8)
    content.update(document.labels.tobytes())
    return int.from_bytes(content.digest(), "little")


class Fingerprints:
    """Places, digests and signatures of up to `capacity` records of several sets, in the order they are added."""

    def __init__(self, capacity: int) -> None:
        self.size = 0
        self.digests = np.empty(capacity, dtype=np.uint64)
        self.signatures = np.empty((capacity, duplicates.PERMUTATIONS), dtype=np.uint32)
        self._files = np.empty(capacity, dtype=np.int32)
        self._numbers = np.empty(capacity, dtype=np.int64)
        self._names: list[str] = []
        self._common: NDArray[np.uint32] | None = None

    def register(self, index: DatasetIndex) -> dict[tuple[int, str], int]:
        """A number for every file of a set, by source and name: the order in which a record is before another."""
        places = [(s, f"{source.root}/{file.key}") for s, source in enumerate(index.sources) for file in source.files]
        first = len(self._names)
        self._names += [name for _, name in places]
        return {place: first + i for i, place in enumerate(places)}

    def add(self, outcomes: Sequence[Seen], files: dict[tuple[int, str], int]) -> None:
        """Take the records that have tokens; what most of the first call's records share is no content of any."""
        found = [(o.record, o.document) for o in outcomes if isinstance(o.document, Document)]
        span = slice(self.size, self.size + len(found))
        sources = np.array([record.source for record, _ in found], dtype=np.int64)
        ids = [record.id.rpartition("#") for record, _ in found]
        self._files[span] = [files[int(s), name] for s, (name, _, _) in zip(sources, ids, strict=True)]
        self._numbers[span] = [int(number) for _, _, number in ids]
        self.digests[span] = [digest(document) for _, document in found]
        self.signatures[span] = self._signed([document.input_ids for _, document in found], sources)
        self.size += len(found)

    def distinct(self, first: int, end: int) -> Ints:
        """Positions of the records added from `first` to `end` in the order of files, a record read twice only once."""
        files, numbers = self._files[first:end], self._numbers[first:end]
        order = np.lexsort((numbers, files))
        again = (np.diff(files[order]) == 0) & (np.diff(numbers[order]) == 0)
        return np.asarray(order[np.concatenate([np.ones(min(len(order), 1), dtype=bool), ~again])] + first)

    def id_of(self, position: int) -> RecordId:
        """The id of the record at a position."""
        return f"{self._names[self._files[position]]}#{self._numbers[position]}"

    def files_of(self, positions: Ints) -> NDArray[np.int32]:
        """The numbers of the files of the records at these positions."""
        return self._files[positions]

    def _signed(self, documents: Sequence[NDArray[np.int32]], sources: Ints) -> NDArray[np.uint32]:
        hashes, bounds = duplicates.shingles(documents)
        if self._common is None and documents:
            self._common = duplicates.common_shingles(hashes, bounds, sources)
        left_out = self._common if self._common is not None else hashes[:0]
        return duplicates.signatures(*duplicates.without(hashes, bounds, left_out))
