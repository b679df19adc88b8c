"""Bodies of uploads: a memoryview that goes to the socket as it is, uncopied, whichever layer asks for it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest

# Up to here a copy costs less than the round trip of `Expect: 100-continue`, which botocore adds for files.
SMALL_BYTES = 64 * 2**10
# Python gives one `sendall` the time of a connect, whatever its size: so an upload is given up where it gets no further
# than this in CONNECT_SECONDS, and not where all of it takes longer. Smaller pieces cost more (docs/adr/0018).
PIECE_BYTES = 2 * 2**20


class ViewFile:
    """A memoryview as the file that botocore takes for a body, and hashes where a profile wants payloads signed."""

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self._position = 0

    def read(self, size: int | None = -1) -> memoryview:
        """The next `size` bytes, without a copy."""
        stop = self.view.nbytes if size is None or size < 0 else self._position + size
        piece = self.view[self._position : stop]
        self._position += piece.nbytes
        return piece

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to `offset` bytes from the start, the position or the end."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.view.nbytes}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """The position in bytes."""
        return self._position


class _Pieces:
    """What urllib3 sends by one `sendall` a piece: of a file it would read 16 KiB at a time."""

    def __init__(self, view: memoryview) -> None:
        self._view = view

    def __iter__(self) -> Iterator[memoryview]:
        for start in range(0, self._view.nbytes, PIECE_BYTES):
            yield self._view[start : start + PIECE_BYTES]

    def seek(self, offset: int) -> int:
        """Nothing: botocore rewinds bodies before it sends them again."""
        return offset


def body_of(view: memoryview) -> Any:
    """What boto3 is given as `Body` for these bytes."""
    return bytes(view) if view.nbytes <= SMALL_BYTES else ViewFile(view)


def send_uncopied(request: AWSPreparedRequest, **_: Any) -> None:
    """Handler of botocore's `before-send`: the signed request goes on to botocore's own transport with such a body."""
    if isinstance(request.body, ViewFile):
        request.body = _Pieces(request.body.view)
