"""How a file holds records: JSON lines, plain or compressed, or Parquet. Streamed: never a whole file in memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, Protocol

import pyarrow
import zstandard

from finetune_trainer.errors import DataError

MAX_RECORD_BYTES = 64 << 20
READ_BYTES = 256 << 10
# zstd's --long=31 is the largest window that its command line tool writes.
MAX_WINDOW_BYTES = 1 << 31
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Container(StrEnum):
    """How a file holds records."""

    JSONL = "jsonl"
    GZIP = "gzip"
    ZSTD = "zstd"
    PARQUET = "parquet"


_SUFFIXES = {".gz": Container.GZIP, ".zst": Container.ZSTD, ".parquet": Container.PARQUET, ".jsonl": Container.JSONL}
_NAMES = {
    Container.JSONL: "plain text",
    Container.GZIP: "gzip",
    Container.ZSTD: "zstd",
    Container.PARQUET: "Parquet",
}


def detect_container(name: str, head: bytes) -> Container:
    """The container of the file `name` whose first bytes are `head` (at least 4, or all of it).

    Raises DataError for an empty file and for one whose suffix promises something else than it holds.
    """
    if not head:
        raise DataError(f"{name} is empty: remove it, or write records into it")
    found = _by_magic(head)
    promised = next((container for suffix, container in _SUFFIXES.items() if name.endswith(suffix)), found)
    if promised is not found:
        raise DataError(f"{name} is not {_NAMES[promised]} as its name says, but {_NAMES[found]}: rename or repair it")
    return found


def _by_magic(head: bytes) -> Container:
    if head.startswith(b"\x1f\x8b"):
        return Container.GZIP
    # RFC 8878: the magic of a frame, or of a skippable frame (0x184D2A50 to 5F).
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50):
        return Container.ZSTD
    return Container.PARQUET if head.startswith(b"PAR1") else Container.JSONL


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn what the decoders raise on broken content into a DataError that names the file."""
    try:
        yield
    except (zlib.error, zstandard.ZstdError, pyarrow.ArrowException, EOFError, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the operating system's; Arrow raises OSErrors without a number for damaged Parquet
        reason = " ".join(str(error).split())  # Arrow's may have several lines
        raise DataError(f"{name} cannot be read: {reason}; write the file again, or remove it") from error


class Readable(Protocol):
    """The part of a file that is used here."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, fewer only at the end."""
        ...


def decoded_blocks(stream: Readable, container: Container) -> Iterator[bytes]:
    """The decompressed content in blocks; several members or frames in one file are one content.

    Raises EOFError when the file ends within a member or frame, zlib.error or ZstdError when it is damaged.
    """
    if container is Container.JSONL:
        while data := stream.read(READ_BYTES):
            yield data
        return
    decoder: _Decoder | None = None
    while data := stream.read(READ_BYTES):
        while data:
            if decoder is None:
                data = data.lstrip(b"\0") if container is Container.GZIP else data  # gzip files may be padded
                decoder = _decoder(container) if data else None
            if decoder is not None:
                yield decoder.decompress(data)
            data, decoder = _behind(decoder)
    if decoder is not None:
        raise EOFError("it is truncated: the compressed content ends early")


class _Decoder(Protocol):
    eof: bool
    unused_data: bytes

    def decompress(self, data: bytes, /) -> bytes: ...


def _decoder(container: Container) -> Any:
    if container is Container.GZIP:
        return zlib.decompressobj(wbits=31)
    return zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()


def _behind(decoder: _Decoder | None) -> tuple[bytes, _Decoder | None]:
    """What follows the member that just ended, and no decoder; nothing and the same decoder while it goes on."""
    if decoder is None or not decoder.eof:
        return b"", decoder
    return decoder.unused_data, None


def split_lines(blocks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """The lines of a content given in blocks, without their newlines, blank ones included.

    Raises DataError for a line above `MAX_RECORD_BYTES`.
    """
    pending: list[bytes] = []
    size = 0
    for block in blocks:
        *whole, rest = block.split(b"\n")
        if whole:
            yield b"".join([*pending, whole[0]])
            yield from whole[1:]
            pending, size = [], 0
        pending.append(rest)
        size += len(rest)
        if size > MAX_RECORD_BYTES:
            raise DataError(
                f"{name} has a line of more than {MAX_RECORD_BYTES >> 20} MiB: write one record per line "
                "(a JSON array becomes lines with `jq -c '.[]'`), and split larger records"
            )
    if size:
        yield b"".join(pending)


def is_record(line: bytes) -> bool:
    """Whether a line holds a record; blank lines do not."""
    return bool(line.strip())
