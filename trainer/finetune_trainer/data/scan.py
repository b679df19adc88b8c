"""One pass over one file: where its records are, and what its first ones look like."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from itertools import pairwise

import pyarrow.parquet

from finetune_trainer.data.containers import (
    BYTE_ORDER_MARK,
    Container,
    decoded_blocks,
    detect_container,
    is_record,
    reading,
    split_lines,
)
from finetune_trainer.data.examples import BadRecord
from finetune_trainer.data.formats import parse
from finetune_trainer.data.index import FileIndex, records_crc64
from finetune_trainer.errors import DataError
from finetune_trainer.store import READS, CorruptObject, ObjectInfo, ObjectStore, crc64nvme

# Small enough that a shuffle block of 4096 records is drawn from 16 places, large enough for one ranged read each.
CHUNK_RECORDS = 256
CHUNK_BYTES = 1 << 20
# Records at the start of a file whose columns must agree on the format.
SAMPLE = 8

At = Callable[[int], None]
"""Is told the place reached in a file, in bytes as stored."""


@dataclass(frozen=True)
class Scan:
    """One file's index, and the column names of its first records, as far as they could be parsed, else why not.

    `lists`: those columns that hold a list in any of these records.
    """

    name: str
    file: FileIndex
    names: list[frozenset[str]]
    lists: frozenset[str]
    problem: str = ""


def scan_file(store: ObjectStore, info: ObjectInfo, at: At) -> Scan:
    """Read one file, telling `at` after each block.

    Raises DataError that names the file, CorruptObject for one that is not what its store keeps a CRC64NVME of.
    """
    name = f"{store.uri}/{info.key}"
    container = detect_container(name, store.get(info.key, 0, 16))
    with reading(name):
        if container is Container.PARQUET:
            return _scan_parquet(name, store, info, container)
        return _scan_checked(name, store, info, container, at)


def _scan_checked(name: str, store: ObjectStore, info: ObjectInfo, container: Container, at: At) -> Scan:
    """The scan of a file of lines, which is what its store says of it."""
    kept = store.checksum(info.key)
    for _ in range(READS):
        with store.open(info.key) as file:
            stream = _Stored(file)
            scan = _scan_lines(name, stream, info, container, at)
        if kept in (None, stream.crc):
            return scan
    raise CorruptObject(
        f"{name} is damaged: its CRC64NVME is {stream.crc:016x}, not {kept:016x} as its store keeps it: write it again"
    )


def _scan_lines(name: str, stream: _Stored, info: ObjectInfo, container: Container, at: At) -> Scan:
    content = _Content()
    records: list[int] = []
    sizes: list[int] = []
    checksums: list[int] = []
    sample: list[bytes] = []
    held: list[bytes] = []
    size = 0
    blocks = _told(stream, decoded_blocks(stream, container), at)
    for number, line in enumerate(split_lines(content.watch(blocks), name)):
        length = len(line) + 1
        record = line if number else line.removeprefix(BYTE_ORDER_MARK)
        if is_record(record):
            if len(held) == CHUNK_RECORDS or (held and size + length > CHUNK_BYTES):
                records.append(len(held))
                sizes.append(size)
                checksums.append(records_crc64(held))
                held, size = [], 0
            held.append(record)
            if len(sample) < SAMPLE:
                sample.append(record)
        size += length
    if not held:
        raise DataError(f"{name} holds no record: remove it, or write one JSON object per line")
    if sample[0].lstrip().startswith(b"["):
        raise DataError(f"{name} is a JSON array: write one object per line, as `jq -c '.[]' {info.key}` does")
    records.append(len(held))
    sizes.append(content.size - sum(sizes))  # the last line may have no newline
    checksums.append(records_crc64(held))
    file = FileIndex(
        key=info.key,
        size=info.size,
        version=info.version,
        container=container,
        digest=f"{content.crc:016x}",
        records=tuple(records),
        sizes=tuple(sizes),
        crc64=tuple(checksums),
    )
    return _described(name, file, sample)


def _told(stream: _Stored, blocks: Iterable[bytes], at: At) -> Iterator[bytes]:
    for block in blocks:
        at(stream.size)
        yield block


def _described(name: str, file: FileIndex, sample: Iterable[bytes]) -> Scan:
    names: list[frozenset[str]] = []
    lists: set[str] = set()
    problem = ""
    for line in sample:
        try:
            record = parse(line)
        except BadRecord as error:
            problem = problem or str(error)
            continue
        names.append(frozenset(record))
        lists |= {column for column, value in record.items() if isinstance(value, list)}
    return Scan(name, file, names, frozenset(lists), problem)


class _Stored:
    """A file as it is stored, of which `size` bytes have been read so far, with the CRC64NVME `crc`."""

    def __init__(self, file: BufferedReader) -> None:
        self.size = 0
        self.crc = 0
        self._file = file

    def read(self, size: int) -> bytes:
        """The next bytes, fewer only at the end."""
        data = self._file.read(size)
        self.size += len(data)
        self.crc = crc64nvme(data, self.crc)
        return data


class _Content:
    """Size and CRC64NVME of the blocks that pass through `watch`."""

    def __init__(self) -> None:
        self.size = 0
        self.crc = 0

    def watch(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        for block in blocks:
            self.size += len(block)
            self.crc = crc64nvme(block, self.crc)
            yield block


def _scan_parquet(name: str, store: ObjectStore, info: ObjectInfo, container: Container) -> Scan:
    with store.open(info.key) as stream, pyarrow.parquet.ParquetFile(stream) as parquet:
        groups = [parquet.metadata.row_group(i) for i in range(parquet.metadata.num_row_groups)]
        chunks = [_row_chunks(group.num_rows, group.total_byte_size) for group in groups]
        schema = parquet.schema_arrow
    if not any(chunks):
        raise DataError(f"{name} has no rows: remove it, or write records into it")
    file = FileIndex(
        key=info.key,
        size=info.size,
        version=info.version,
        container=container,
        digest=_footer_digest(store, info),
        records=tuple(rows for group in chunks for rows, _ in group),
        sizes=tuple(size for group in chunks for _, size in group),
        row_groups=tuple(len(group) for group in chunks),
        crc64=(),
    )
    lists = frozenset(column.name for column in schema if _is_list(column.type))
    return Scan(name, file, [frozenset(schema.names)], lists)


def _is_list(kind: pyarrow.DataType) -> bool:
    return isinstance(kind, pyarrow.ListType | pyarrow.LargeListType)


def _row_chunks(rows: int, size: int) -> list[tuple[int, int]]:
    """Rows and bytes of each chunk of a row group, whose sizes are known on average only."""
    per_chunk = max(1, min(CHUNK_RECORDS, rows * CHUNK_BYTES // max(size, 1)))
    bounds = [*range(0, rows, per_chunk), rows]
    return [(end - start, size * end // rows - size * start // rows) for start, end in pairwise(bounds)]


def _footer_digest(store: ObjectStore, info: ObjectInfo) -> str:
    """CRC64NVME of the footer: sizes, places and statistics of all column chunks (Parquet format, file metadata)."""
    length = int.from_bytes(store.get(info.key, info.size - 8, 4), "little")
    return f"{crc64nvme(store.get(info.key, info.size - 8 - length, length)):016x}"
