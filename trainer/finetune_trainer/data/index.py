"""The data set index: where every record lies, found in one pass over the sources; JSON."""

from __future__ import annotations

import hashlib
import json
from array import array
from base64 import b64decode, b64encode
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PlainSerializer, PlainValidator, TypeAdapter

from finetune_trainer.data.chunks import ChunkTable, Ints
from finetune_trainer.data.containers import Container
from finetune_trainer.spec.data import Format
from finetune_trainer.store import crc64nvme

INDEX_VERSION = 1
"""Goes up whenever the same files would be cut into other chunks; part of the index's id."""


COLUMN_TYPES = ("H", "I", "Q")
_NUMBERS = TypeAdapter(tuple[NonNegativeInt, ...])


def _column(value: object) -> array[int]:
    """From integers, or from what `_text` wrote."""
    if isinstance(value, str):
        code = value[:1]
        if code not in COLUMN_TYPES:
            raise ValueError(f"a column of type {code!r}")
        stored = np.frombuffer(b64decode(value[1:], validate=True), dtype=np.dtype(code).newbyteorder("<"))
        return array(code, stored.astype(code).tobytes())
    numbers = _NUMBERS.validate_python(value)
    largest = max(numbers, default=0)
    return array(next(code for code in COLUMN_TYPES if largest <= np.iinfo(code).max), numbers)


def _text(column: array[int]) -> str:
    """The type's character and base64 of the integers, little-endian."""
    stored = np.frombuffer(column, dtype=column.typecode)
    return column.typecode + b64encode(stored.astype(stored.dtype.newbyteorder("<")).tobytes()).decode()


Column = Annotated[Sequence[int], PlainValidator(_column), PlainSerializer(_text, when_used="json")]
"""Integers from 0, one per chunk, held and stored packed: a data set of 10^9 records has 4 million chunks."""


class FileIndex(BaseModel):
    """One file, cut into chunks of consecutive records.

    `records` and `sizes` (bytes, decompressed) have one entry per chunk. `row_groups`: chunks per row group of a
    Parquet file, else empty. `digest`: CRC64NVME (16 hex digits) of the decompressed content, of a Parquet file its
    footer. `version`: the store's, to notice a later change. `crc64`: `records_crc64` per chunk, none of Parquet files.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    size: int
    version: str
    container: Container
    digest: str
    records: Column
    sizes: Column
    row_groups: tuple[int, ...] = ()
    crc64: Column

    @property
    def segments(self) -> Ints:
        """Chunks per segment, a run of chunks that can only be read front to back: int64[segments]."""
        if self.container is Container.JSONL:
            return np.ones(len(self.records), dtype=np.int64)
        return np.array(self.row_groups or [len(self.records)], dtype=np.int64)


class SourceIndex(BaseModel):
    """One source of the manifest: how its records are written, how often each is seen per epoch, and its files.

    `conversations`: the chat template renders its records, as far as the first ones of its files tell.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    uri: str
    root: str
    format: Format
    conversations: bool
    columns: dict[str, str]
    weight: float
    files: tuple[FileIndex, ...]

    @property
    def records(self) -> int:
        """Number of records in all files."""
        return sum(sum(file.records) for file in self.files)

    @cached_property
    def place(self) -> str:
        """32 hex digits that name these very files: where they lie, their sizes and their versions in the store."""
        files = [(file.key, file.version, file.size) for file in self.files]
        return hashlib.sha256(json.dumps([self.root, files]).encode()).hexdigest()[:32]

    @property
    def files_id(self) -> str:
        """The same for the bytes of files that cannot be read by chunks."""
        return f"{self.place}-files"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Where a chunk lies: its file, its place in it, and the segment it belongs to.

    `offset` and `size` are bytes of the decompressed content; `first` is the number of its first record within the
    file, and `segment_first` that of its segment's, both from 0; `segment` numbers the segments of the file. `crc64`:
    `records_crc64` of its records, None in a Parquet file.
    """

    source: int
    file: int
    segment: int
    segment_first: int
    first: int
    records: int
    offset: int
    size: int
    crc64: int | None


def records_crc64(records: Sequence[bytes]) -> int:
    """CRC64NVME of the lines of a chunk that hold records, joined by newlines."""
    return crc64nvme(b"\n".join(records))


class Digests(BaseModel):
    """What takes seconds to compute of a large index: its id, and the digest of the content of each source."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    contents: tuple[str, ...]


class DatasetIndex(BaseModel):
    """All sources of a data set. `id` depends on content, formats and weights, not on where the files lie.

    `digests`: of this very index, where they were computed before.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = INDEX_VERSION
    sources: tuple[SourceIndex, ...]
    digests: Digests | None = None

    @cached_property
    def id(self) -> str:
        """32 hex digits of SHA-256 over everything that the order and the meaning of the records depend on."""
        if self.digests is not None:
            return self.digests.id
        facts = [
            [s.format, sorted(s.columns.items()), s.weight, [content(file) for file in s.files]] for s in self.sources
        ]
        return hashlib.sha256(json.dumps([self.version, facts]).encode()).hexdigest()[:32]

    def content_digest(self, source: int) -> str:
        """SHA-256 (hex) over the content of a source's files and their cut into chunks."""
        if self.digests is not None:
            return self.digests.contents[source]
        facts = [content(file) for file in self.sources[source].files]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def digested(self) -> DatasetIndex:
        """The same with its digests, to be kept with them."""
        contents = tuple(self.content_digest(source) for source in range(len(self.sources)))
        return self.model_copy(update={"digests": Digests(id=self.id, contents=contents)})

    def unweighted(self) -> DatasetIndex:
        """The same records, each of them once."""
        return DatasetIndex(sources=tuple(source.model_copy(update={"weight": 1.0}) for source in self.sources))

    @property
    def rendered_formats(self) -> frozenset[Format]:
        """The formats of all sources as they are rendered: every kind of conversation counts as Messages."""
        return frozenset(Format.MESSAGES if source.conversations else source.format for source in self.sources)

    @property
    def records(self) -> int:
        """Number of records in all sources, each counted once."""
        return sum(source.records for source in self.sources)

    def chunk(self, number: int) -> Chunk:
        """Where chunk `number` of the table lies."""
        source, file, start = self._files[bisect_right(self._files, number, key=lambda entry: entry[2]) - 1]
        checksums = self.sources[source].files[file].crc64
        checksum = checksums[number - start] if checksums else None
        return self._layouts[source][file].chunk(source, file, number - start, checksum)

    @cached_property
    def table(self) -> ChunkTable:
        """What the order of records is computed from: all chunks, in the order of sources, files and positions."""
        layouts = [(s, layout) for s, files in enumerate(self._layouts) for layout in files]
        segments = np.cumsum([0] + [int(layout.segment[-1]) + 1 for _, layout in layouts])
        return ChunkTable(
            source=np.concatenate([np.full_like(layout.segment, s) for s, layout in layouts]),
            segment=np.concatenate([layout.segment + segments[i] for i, (_, layout) in enumerate(layouts)]),
            records=np.concatenate([np.diff(layout.first) for _, layout in layouts]),
            size=np.concatenate([np.diff(layout.offset) for _, layout in layouts]),
            weights=tuple(source.weight for source in self.sources),
        )

    @cached_property
    def _layouts(self) -> list[list[_Layout]]:
        return [[_Layout.of(file) for file in source.files] for source in self.sources]

    @cached_property
    def _files(self) -> list[tuple[int, int, int]]:
        """Source, file and number of its first chunk, for every file."""
        places = [(s, f) for s, source in enumerate(self.sources) for f in range(len(source.files))]
        starts = accumulate((len(self.sources[s].files[f].records) for s, f in places), initial=0)
        return [(s, f, start) for (s, f), start in zip(places, starts, strict=False)]

    def report(self) -> list[dict[str, Any]]:
        """What was found, per source, for people: JSON-able."""
        return [
            {
                "uri": source.uri,
                "format": str(source.format),
                "files": len(source.files),
                "bytes": sum(file.size for file in source.files),
                "records": source.records,
                "weight": source.weight,
            }
            for source in self.sources
        ]


def content(file: FileIndex) -> list[object]:
    """What the meaning of a file's records and their cut into chunks depend on; JSON-able."""
    return [file.container, file.digest, list(file.records), list(file.sizes), file.row_groups]


@dataclass(frozen=True)
class _Layout:
    """Chunks of one file. `first`, `offset`: int64[chunks + 1], record and byte at which each begins, and the end;
    `segment`: int64[chunks]; `segment_bounds`: int64[segments + 1], first chunk of each, and the end.
    """

    first: Ints
    offset: Ints
    segment: Ints
    segment_bounds: Ints

    @classmethod
    def of(cls, file: FileIndex) -> _Layout:
        lengths = file.segments
        return cls(
            first=np.concatenate([[0], np.cumsum(file.records, dtype=np.int64)]),
            offset=np.concatenate([[0], np.cumsum(file.sizes, dtype=np.int64)]),
            segment=np.repeat(np.arange(len(lengths), dtype=np.int64), lengths),
            segment_bounds=np.concatenate([[0], np.cumsum(lengths)]),
        )

    def chunk(self, source: int, file: int, number: int, crc64: int | None) -> Chunk:
        segment = int(self.segment[number])
        return Chunk(
            source=source,
            file=file,
            segment=segment,
            segment_first=int(self.first[self.segment_bounds[segment]]),
            first=int(self.first[number]),
            records=int(self.first[number + 1] - self.first[number]),
            offset=int(self.offset[number]),
            size=int(self.offset[number + 1] - self.offset[number]),
            crc64=crc64,
        )
