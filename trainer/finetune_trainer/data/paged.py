"""A file of an object store as a stream over pages that a node shares."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

PAGE_BYTES = 2 << 20
"""Two of the reads that decoders make: for whole pages that are read only in part, not much comes in vain."""
HELD = 4
"""Pages that an open file holds: those of the columns of a Parquet file that are read side by side."""


def pages_of(size: int) -> int:
    """How many pages a file of so many bytes has."""
    return -(-size // PAGE_BYTES)


def page_range(size: int, number: int) -> tuple[int, int]:
    """Where page `number` of such a file begins, and its size."""
    start = number * PAGE_BYTES
    return start, min(PAGE_BYTES, size - start)


class PagedFile(io.RawIOBase):
    """A seekable, read-only file of `size` bytes; `page` returns page number n of it, from 0.

    `ahead`, for files that are read front to back, fetches the next page while this one is decoded.
    """

    def __init__(self, size: int, page: Callable[[int], bytes], ahead: Executor | None) -> None:
        super().__init__()
        self._size = size
        self._page = page
        self._ahead = ahead
        self._held: OrderedDict[int, bytes] = OrderedDict()
        self._coming: tuple[int, Future[bytes]] | None = None
        self._position = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to `offset` bytes from the start, the position or the end."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """The position in bytes."""
        return self._position

    def readinto(self, buffer: Buffer, /) -> int:
        """Fill `buffer` from the start, up to the end of a page; 0 only at the end."""
        if self._position >= self._size:
            return 0
        number, within = divmod(self._position, PAGE_BYTES)
        view = memoryview(buffer).cast("B")
        part = memoryview(self._get(number))[within : within + view.nbytes]
        view[: part.nbytes] = part
        self._position += part.nbytes
        return part.nbytes

    def close(self) -> None:
        """Give up what is being fetched."""
        if self._coming is not None:
            self._coming[1].cancel()
        self._held.clear()
        super().close()

    def _get(self, number: int) -> bytes:
        if number in self._held:
            self._held.move_to_end(number)
            return self._held[number]
        coming, self._coming = self._coming, None
        data = coming[1].result() if coming is not None and coming[0] == number else self._page(number)
        if self._ahead is not None and number + 1 < pages_of(self._size):
            self._coming = number + 1, self._ahead.submit(self._page, number + 1)
        self._held[number] = data
        if len(self._held) > (HELD if self._ahead is None else 1):
            self._held.popitem(last=False)
        return data
