"""A seekable stream over one S3 object that survives broken connections and never mixes two versions of it."""

from __future__ import annotations

import io
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from botocore.exceptions import HTTPClientError, IncompleteReadError

from finetune_trainer.errors import StorageError

if TYPE_CHECKING:
    from typing_extensions import Buffer

# botocore retries requests, not the reading of their bodies: these are what a body's connection can raise.
BROKEN = (HTTPClientError, IncompleteReadError, OSError)


class Body(Protocol):
    """The part of botocore's StreamingBody that is used here."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer` from the start, less only at the end."""
        ...

    def close(self) -> None:
        """Give the connection up."""
        ...


@dataclass(frozen=True)
class Fetched:
    """An answer to a GET: the body from the asked offset on, the whole object's size in bytes, and its ETag."""

    body: Body
    size: int
    etag: str


# One read of a body: botocore's transport copies it once, which is cheap while it is in the processor's cache. One that
# breaks loses what it had, so after the first break they are small, and every attempt gets further.
PIECE_BYTES = 2**20
SMALL_PIECE_BYTES = 256 * 2**10
# A piece that takes longer than this is the last one of its connection: the next may have a better way to the store.
# A small piece that takes longer, or a large one four times as long (9 KB/s), is given up before its end.
SLOW_SECONDS = 30.0
Fetch = Callable[[int, str], Fetched]


class _TimedSocket:
    """A socket that receives until a deadline (monotonic, s): a limit for each `recv` is none for a body that drips."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self.deadline = math.inf

    def recv_into(self, buffer: Buffer) -> int:
        if time.monotonic() > self.deadline:
            raise TimeoutError("too slow")
        received: int = self._socket.recv_into(buffer)
        return received

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


class TimedBody:
    """A StreamingBody of botocore whose reads have an end, however few bytes come at a time."""

    def __init__(self, body: Any) -> None:
        self._body = body
        self._socket: _TimedSocket | None = None
        if (buffered := body._raw_stream._fp.fp) is not None:  # None: there is nothing to read
            self._socket = buffered.raw._sock = _TimedSocket(buffered.raw._sock)

    def readinto(self, buffer: memoryview, /) -> int:
        """As StreamingBody; ReadTimeoutError for a piece that is slower than the least rate."""
        if self._socket is not None:
            self._socket.deadline = time.monotonic() + SLOW_SECONDS * max(1.0, buffer.nbytes / SMALL_PIECE_BYTES)
        read: int = self._body.readinto(buffer)
        return read

    def close(self) -> None:
        """Give the connection up."""
        self._body.close()


@dataclass(frozen=True)
class Source:
    """An object to read: its name for messages, how to open it at an offset, and how often to try without a byte."""

    name: str
    fetch: Fetch
    attempts: int


def pause(attempt: int) -> None:
    """Wait before retry `attempt` (from 0): full jitter under 0.05 s doubled per attempt, at most 20 s."""
    time.sleep(random.uniform(0, min(20.0, 0.05 * 2**attempt)))


class S3Reader(io.RawIOBase):
    """Reads the bytes [start, start + length) of an object; `source.fetch(offset, etag)` opens it at an offset.

    The first fetch is made at once, so that a missing object is an error here; later ones name the ETag of the first.
    """

    def __init__(self, source: Source, start: int = 0, length: int | None = None) -> None:
        super().__init__()
        self.name = source.name
        self._source = source
        first = source.fetch(start, "")
        self._body: Body | None = first.body
        self._etag = first.etag
        self._start = start
        self._end = max(start, first.size if length is None else min(first.size, start + length))
        self._position = start
        self._piece = PIECE_BYTES

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always; the next read opens the object at the new place."""
        return True

    def tell(self) -> int:
        """The position relative to the start of the range, in bytes."""
        return self._position - self._start

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to `offset` bytes from the start, the position or the end of the range."""
        base = {io.SEEK_SET: self._start, io.SEEK_CUR: self._position, io.SEEK_END: self._end}[whence]
        target = max(self._start, base + offset)
        if target != self._position:
            self._drop()
        self._position = target
        return self.tell()

    def readinto(self, buffer: Buffer, /) -> int:
        """Fill `buffer` from the start, or only the first part of it; 0 only at the end of the range."""
        view = memoryview(buffer).cast("B")[: max(0, self._end - self._position)]
        return self._read_into(view[: self._piece]) if view.nbytes else 0

    def readall(self) -> bytes:
        """Everything up to the end of the range, in memory that is not copied."""
        held = io.BytesIO(bytes(max(0, self._end - self._position)))
        size = 0
        with held.getbuffer() as view:
            while count := self.readinto(view[size:]):
                size += count
        return held.getvalue()

    def close(self) -> None:
        """Give the connection up."""
        self._drop()
        super().close()

    def _read_into(self, view: memoryview) -> int:
        """Read at least a byte of the range. A body that breaks off is asked for again."""
        for attempt in range(self._source.attempts):
            try:
                body = self._open()
                started = time.monotonic()
                count = body.readinto(view)
            except BROKEN as error:
                cause: Exception | None = error
            else:
                if count:
                    self._position += count
                    if time.monotonic() - started > SLOW_SECONDS:
                        self._drop()
                    return count
                cause = None
            self._drop()
            self._piece = SMALL_PIECE_BYTES
            view = view[: self._piece]
            pause(attempt)
        raise StorageError(
            f"cannot read {self.name}: its body breaks off, or comes at less than "
            f"{SMALL_PIECE_BYTES / SLOW_SECONDS / 1000:.0f} KB/s, at byte {self._position} of {self._end}, after "
            f"{self._source.attempts} attempts; check the network and the store"
        ) from cause

    def _open(self) -> Body:
        if self._body is None:
            self._body = self._source.fetch(self._position, self._etag).body
        return self._body

    def _drop(self) -> None:
        if self._body is not None:
            self._body.close()
        self._body = None
