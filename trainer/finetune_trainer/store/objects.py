"""What a store of objects is: whole objects under keys, created once, listed in order; and how it fails."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from finetune_trainer.errors import StorageError

if TYPE_CHECKING:
    from typing_extensions import Buffer

# The longest file name of ext4, xfs and every S3 server that keeps objects as files.
MAX_SEGMENT_BYTES = 255
# S3's limit for a whole key.
MAX_KEY_BYTES = 1024
# Names that begin so belong to the file store itself and are never listed.
TEMPORARY_PREFIX = ".finetune-tmp-"


class ObjectNotFound(StorageError):
    """No object has this key."""


class ObjectExists(StorageError):
    """A create-only write found an object under its key; that object is as it was."""


class StorageRefused(StorageError):
    """The store cannot be used as it is set up (bucket, credentials, rights, address); starting again cannot help."""

    reason = "StorageRefused"
    retryable: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object: its key relative to the store's root, its size in bytes, and a value that changes with its content.

    `version` is the ETag on S3 and `<mtime in ns>-<size>` on a file system.
    """

    key: str
    size: int
    version: str


class ObjectStore(Protocol):
    """Objects under one root, `s3://bucket/prefix` or `file:///folder`; keys are relative to it and '/'-separated.

    Every method raises StorageError with the cause and what to do about it; transient failures were retried before.
    Stores may be used from several threads, pickled, and used after a fork.
    """

    @property
    def uri(self) -> str:
        """The root's address, without a slash at its end."""
        ...

    def list(self, prefix: str = "", *, after: str = "", recursive: bool = True) -> Iterator[ObjectInfo]:
        """Every object whose key begins with `prefix` and sorts behind `after`, in byte order of the UTF-8 keys.

        With `recursive=False` only those without a '/' behind the prefix. A root that does not exist yet is empty.
        """
        ...

    def head(self, key: str) -> ObjectInfo:
        """What is known of one object; ObjectNotFound if there is none."""
        ...

    def checksum(self, key: str) -> int | None:
        """The CRC64NVME that the store keeps of an object, whoever wrote it; None if it keeps none.

        To be told it takes the right to read the object; ObjectNotFound if there is none.
        """
        ...

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """The bytes from `start`, at most `length` of them, fewer only at the object's end; ObjectNotFound if none."""
        ...

    def read_into(self, key: str, buffer: Buffer, start: int = 0) -> tuple[int, int]:
        """Fill `buffer` with the bytes from `start` on: how many came, fewer than it holds only at the object's end,
        and their CRC64NVME, taken as they arrived; ObjectNotFound if none.
        """
        ...

    def open(self, key: str) -> io.BufferedReader:
        """A buffered, seekable reader that never holds the whole object; ObjectNotFound if there is none."""
        ...

    def create(self, key: str, data: Buffer, *, crc64: int | None = None) -> ObjectInfo:
        """Store a new object, whole and durable or not at all; ObjectExists if the key is taken.

        `crc64` is the data's CRC64NVME where the caller has it already.
        """
        ...

    def put(self, key: str, data: Buffer) -> ObjectInfo:
        """Store an object in place of any older one; readers see the old or the new one, whole."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are not there are no error."""
        ...

    def discard_unfinished(self, prefix: str) -> None:
        """Remove what killed writers left, below the folder `prefix`, of objects that never came to be.

        A write that is still going on succeeds all the same.
        """
        ...


def byte_view(data: Buffer) -> memoryview:
    """`data` as a flat view of bytes, without a copy; ValueError if it is not contiguous."""
    view = memoryview(data)
    if not view.contiguous:
        raise ValueError("the data is not contiguous in memory: pass a contiguous copy")
    return view.cast("B") if view.nbytes else memoryview(b"")


def check_key(key: str, root: str) -> None:
    """Refuse a key that leaves its root or that not every store can hold; StorageError names it."""
    segments = key.split("/")
    if any(segment in ("", ".", "..") for segment in segments):
        problem = "has an empty, '.' or '..' segment"
    elif "\0" in key:
        problem = "has a NUL character"
    elif len(key.encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES:
        problem = f"is longer than {MAX_KEY_BYTES} bytes"
    elif any(len(segment.encode("utf-8", "surrogatepass")) > MAX_SEGMENT_BYTES for segment in segments):
        problem = f"has a segment of more than {MAX_SEGMENT_BYTES} bytes"
    elif any(segment.startswith(TEMPORARY_PREFIX) for segment in segments):
        problem = f"has a segment that begins with the reserved {TEMPORARY_PREFIX!r}"
    else:
        return
    raise StorageError(f"{key!r} under {root} {problem}: write names joined by single slashes")
