"""What a run's processes wrote: `<attempt>/<source>/<start>-<nonce>/<offset>.log` in the folder of its logs.

That folder, `<run id>/logs`, lies beside the checkpoints. The output of one process is one stream. S3 has no append, so
a stream is a row of objects, each named by the offset of its first byte: whoever goes on with it finds in the store how
far it got.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Self

from finetune_trainer.store.objects import ObjectExists, ObjectInfo, ObjectStore

if TYPE_CHECKING:
    from typing_extensions import Buffer

LAUNCHER = "launcher"
"""Source of what `finetune run` writes; a rank's is `rank-<n>`."""

START = "%Y%m%dT%H%M%SZ"
_NAME = r"(launcher|rank-[0-9]{1,9})"
_START = r"([0-9]{8}T[0-9]{6}Z-[0-9a-f]{8})"
PIECE = re.compile(rf"([0-9]{{1,9}})/{_NAME}/{_START}/([0-9]{{15}})\.log")
FILE = re.compile(rf"{_NAME}\.{_START}\.log")


@dataclass(frozen=True)
class Stream:
    """The output of one process: of which attempt (0: not numbered), of `launcher` or `rank-<n>`, begun when.

    `start` is a time in UTC and 8 random hexadecimal digits, so that a process that is started again has a stream of
    its own. Streams sort by attempt, the launcher first, ranks by number, and then by time.
    """

    attempt: int
    source: str
    start: str

    @classmethod
    def new(cls, attempt: int, source: str, now: datetime) -> Self:
        """A stream that nobody has used."""
        return cls(attempt, source, f"{now.astimezone(UTC):{START}}-{secrets.token_hex(4)}")

    @classmethod
    def of_file(cls, path: PurePath) -> Self | None:
        """The stream whose local file (`file`) this is; None for any other file."""
        found = FILE.fullmatch(path.name)
        return cls(int(path.parent.name), *found.groups()) if found and path.parent.name.isdecimal() else None

    @property
    def file(self) -> str:
        """Its local file, relative to the folder of the logs."""
        return f"{self.attempt}/{self.source}.{self.start}.log"

    @property
    def prefix(self) -> str:
        """What the keys of its pieces begin with."""
        return f"{self.attempt}/{self.source}/{self.start}/"

    @property
    def rank(self) -> int | None:
        """The rank, None for the launcher."""
        return None if self.source == LAUNCHER else int(self.source.removeprefix("rank-"))

    @property
    def begun(self) -> datetime:
        """When the process began to write, in UTC."""
        return datetime.strptime(self.start.partition("-")[0], START).replace(tzinfo=UTC)

    @property
    def order(self) -> tuple[int, int, str]:
        """What streams are sorted by."""
        return self.attempt, -1 if self.rank is None else self.rank, self.start


def append(store: ObjectStore, stream: Stream, offset: int, data: Buffer) -> int:
    """Store the bytes of a stream from `offset` on; returns the offset behind what is stored.

    Where another process was faster, that may be less or more than `data`. Raises StorageError.
    """
    key = f"{stream.prefix}{offset:015d}.log"
    try:
        return offset + store.create(key, data).size
    except ObjectExists:
        return offset + store.head(key).size


def end_of(store: ObjectStore, stream: Stream) -> int:
    """Bytes of the stream that are stored."""
    pieces = pieces_of(store, stream.prefix).get(stream, [])
    return int(pieces[-1].key[-19:-4]) + pieces[-1].size if pieces else 0


def pieces_of(store: ObjectStore, prefix: str = "") -> dict[Stream, list[ObjectInfo]]:
    """The streams below a run's logs whose keys begin with `prefix`, in their order, and the pieces of each in theirs.

    `store` is the folder of the logs itself. Other objects are passed over.
    """
    found: dict[Stream, list[ObjectInfo]] = {}
    for info in store.list(prefix):
        if name := PIECE.fullmatch(info.key):
            found.setdefault(Stream(int(name[1]), name[2], name[3]), []).append(info)
    return {stream: found[stream] for stream in sorted(found, key=lambda stream: stream.order)}


def read_pieces(store: ObjectStore, pieces: list[ObjectInfo]) -> Iterator[bytes]:
    """What a process wrote, in order."""
    return (store.get(info.key) for info in pieces)
