"""Reads the records of a shuffle block: ranged reads where chunks stand alone, open cursors where they do not."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import cast

from finetune_trainer.data.containers import BYTE_ORDER_MARK, Container, is_record, reading
from finetune_trainer.data.copies import ChunkPart
from finetune_trainer.data.cursor import Cursor
from finetune_trainer.data.formats import Raw
from finetune_trainer.data.index import Chunk, DatasetIndex, FileIndex, records_crc64
from finetune_trainer.data.order import Block, Order
from finetune_trainer.data.paged import PagedFile, page_range, pages_of
from finetune_trainer.data.pages import UNSHARED, Pages, Place
from finetune_trainer.data.rows import RecordId
from finetune_trainer.errors import DataError
from finetune_trainer.store import READS, CorruptObject, open_store

# Ranged reads in flight: enough to hide the latency of an object store, few enough for its connection pool.
REQUESTS = 8
READ_BUFFER_BYTES = 1 << 20

Read = Callable[[bool], list[Raw]]
"""Reads a chunk; True: not from where an earlier read came to."""


@dataclass(frozen=True, slots=True)
class RawRecord:
    """A record as it is stored, the source it belongs to (index), and its id."""

    id: RecordId
    source: int
    raw: Raw


class RecordReader:
    """Reads blocks of one order, in order; a context manager. For one thread at a time.

    `pages`: what the node has of them.
    """

    def __init__(self, index: DatasetIndex, pages: Pages = UNSHARED) -> None:
        self._index = index
        self._pages = pages
        opened = {source.root: open_store(source.root) for source in index.sources}
        self._stores = [opened[source.root] for source in index.sources]
        self._cursors: dict[tuple[int, int, int, int], Cursor] = {}
        self._unchanged: set[tuple[int, int]] = set()
        self._pool = ThreadPoolExecutor(REQUESTS, thread_name_prefix="data-read")

    def __enter__(self) -> RecordReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        for cursor in self._cursors.values():
            cursor.close()
        self._cursors.clear()

    def read(self, block: Block) -> list[RawRecord]:
        """The block's records, part by part, before they are shuffled.

        Raises DataError for a file that changed since it was indexed or cannot be decoded, CorruptObject for one whose
        bytes changed though its store does not say so, StorageError if it cannot be read.
        """
        return self.read_parts(block.order, block.parts)

    def read_parts(self, order: Order, parts: Sequence[ChunkPart]) -> list[RawRecord]:
        """As `read`, of these parts of a block."""
        alone = [part for part in parts if self._file(self._index.chunk(part.chunk)).container is Container.JSONL]
        coming = {}
        for turn in self._pages.turns(len(alone)):
            coming[alone[turn]] = self._pool.submit(self._alone, order, alone[turn])
        taken = [coming[part].result() if part in coming else self._bound(order, part) for part in parts]
        return [record for records in taken for record in records]

    def _alone(self, order: Order, part: ChunkPart) -> list[RawRecord]:
        chunk = self._index.chunk(part.chunk)
        return self._taken(order, part, chunk, lambda fresh: self._read_range(part.chunk, chunk, fresh))

    def _bound(self, order: Order, part: ChunkPart) -> list[RawRecord]:
        chunk = self._index.chunk(part.chunk)
        return self._taken(order, part, chunk, lambda fresh: self._read_on(part, chunk, fresh))

    def _taken(self, order: Order, part: ChunkPart, chunk: Chunk, read: Read) -> list[RawRecord]:
        """The part's share of the chunk's records: what a block does not take must not wait in memory for the rest."""
        name = self._name(chunk)
        held = self._whole(name, chunk, read)
        numbers = order.selection(part).tolist()
        return [RawRecord(f"{name}#{chunk.first + n + 1}", chunk.source, held[n]) for n in numbers]

    def _whole(self, name: str, chunk: Chunk, read: Read) -> list[Raw]:
        """The chunk's records as they were when they were indexed; read once more if they are not."""
        checksum = 0
        for attempt in range(READS):
            try:
                held = read(attempt > 0)
            except DataError:  # compressed content or a page that cannot be decoded
                if attempt + 1 == READS:
                    raise
                continue
            if chunk.crc64 is None:
                if len(held) != chunk.records:
                    raise _changed(name)
                return held
            if (checksum := records_crc64(cast(list[bytes], held))) == chunk.crc64:
                return held
        raise CorruptObject(
            f"{name} is damaged: its records {chunk.first + 1} to {chunk.first + chunk.records}, bytes {chunk.offset} "
            f"to {chunk.offset + chunk.size} of its content, have the CRC64NVME {checksum:016x}, and had "
            f"{chunk.crc64:016x} when it was indexed: put it back as it was, or start a new run"
        )

    def _read_range(self, number: int, chunk: Chunk, fresh: bool) -> list[Raw]:
        file = self._file(chunk)
        self._check_unchanged(chunk)
        within = number - self._index.table.ranges[chunk.source].start
        place = Place(self._index.sources[chunk.source].place, f"records-{within}", chunk.size, within)
        store = self._stores[chunk.source]
        data = self._pages.page(place, lambda: store.get(file.key, chunk.offset, chunk.size), fresh=fresh)
        data = data if chunk.offset else data.removeprefix(BYTE_ORDER_MARK)
        return [line for line in data.split(b"\n") if is_record(line)]

    def _read_on(self, part: ChunkPart, chunk: Chunk, fresh: bool) -> list[Raw]:
        """The chunk from the cursor of its segment and copy, opened at the segment's start if there is none.

        With `fresh` it is opened again.
        """
        key = (chunk.source, chunk.file, chunk.segment, part.copy)
        with reading(self._name(chunk)):
            cursor = self._cursors.pop(key, None)
            if cursor is not None and fresh:
                cursor.close()
            if cursor is None or fresh:
                self._check_unchanged(chunk)
                opener = partial(self._open, chunk, fresh)
                cursor = Cursor(opener, self._index.sources[chunk.source], self._file(chunk), chunk)
            records = cursor.take(chunk.first, chunk.records)
        if part.last:
            cursor.close()
        else:
            self._cursors[key] = cursor
        return records

    def _open(self, chunk: Chunk, fresh: bool) -> io.BufferedReader:
        """The file of a chunk, by pages if the node shares them; `fresh`: not from copies."""
        source, store, file = self._index.sources[chunk.source], self._stores[chunk.source], self._file(chunk)
        if not self._pages.shares(source.files_id):
            return store.open(file.key)
        first = sum(pages_of(one.size) for one in source.files[: chunk.file])

        def fetch(start: int, size: int) -> bytes:
            data = store.get(file.key, start, size)
            if store.head(file.key).version != file.version:  # all pages must be of one version
                raise _changed(self._name(chunk))
            return data

        def page(number: int) -> bytes:
            start, size = page_range(file.size, number)
            place = Place(source.files_id, f"bytes-{first + number}", size, first + number)
            return self._pages.page(place, lambda: fetch(start, size), fresh=fresh)

        ahead = None if file.container is Container.PARQUET else self._pool
        return io.BufferedReader(PagedFile(file.size, page, ahead), READ_BUFFER_BYTES)

    def _check_unchanged(self, chunk: Chunk) -> None:
        place = (chunk.source, chunk.file)
        if place in self._unchanged:
            return
        file = self._file(chunk)
        if self._stores[chunk.source].head(file.key).version != file.version:
            raise _changed(self._name(chunk))
        self._unchanged.add(place)

    def _file(self, chunk: Chunk) -> FileIndex:
        return self._index.sources[chunk.source].files[chunk.file]

    def _name(self, chunk: Chunk) -> str:
        return f"{self._index.sources[chunk.source].root}/{self._file(chunk).key}"


def _changed(name: str) -> DataError:
    return DataError(
        f"{name} changed since it was indexed: put the old file back, or start a new run (another name or "
        "spec.checkpoint.uri) on the new one"
    )
