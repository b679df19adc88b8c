"""Files that processes of this node write, on their way into the run's store, and to where the output went before."""

from __future__ import annotations

import fcntl
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from finetune_trainer.errors import StorageError
from finetune_trainer.launch.environment import STDOUT
from finetune_trainer.store import ObjectStore, open_store
from finetune_trainer.store.streams import Stream, append, end_of

PIECE = 4 * 1024 * 1024
"""Bytes of one object, at which output is stored without waiting."""

POLL = 0.5
"""Seconds between two looks at a file."""

RETRY = 5.0
"""Seconds after which a store that failed is asked again, besides what its client waits."""

ATTEMPTS = "3"
"""Of the store's client for one request, so that a failure is told soon."""

GIVE_UP = 600.0
"""Seconds after the end of the process for which a store that fails is asked again; the file then stays."""

CONTAINER_LOG = "FINETUNE_CONTAINER_LOG"
"""Where `kubectl logs` reads."""


class LogFile:
    """One file on its way into the store.

    `sent` of its bytes are there, None if only the store knows. They are stored at most once in `every` seconds of the
    monotonic `clock`, so that new ones wait no longer than that.
    """

    def __init__(
        self,
        path: Path,
        stream: Stream,
        sent: int | None = None,
        every: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self.stream = stream
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.ended_at: float | None = None
        self._sent = sent
        self._every = every
        self._clock = clock
        self._last = -math.inf

    def ended(self) -> bool:
        """Whether nobody can write there any more; from then on its lock is ours, so that nobody else takes it up."""
        if self.ended_at is None:
            try:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            self.ended_at = self._clock()
        return True

    def ship(self, store: ObjectStore) -> bool:
        """Store whole pieces, and all that is there when it is time or the last; returns whether there was a last.

        Raises StorageError; what is not known to be stored is then stored by a later call.
        """
        ended, now = self.ended(), self._clock()  # first of all, so that what was written before the end is seen below
        sent = end_of(store, self.stream) if self._sent is None else self._sent
        size = os.fstat(self.descriptor).st_size
        due = ended or now - self._last >= self._every
        while sent < size and (due or size - sent >= PIECE):
            sent = append(store, self.stream, sent, os.pread(self.descriptor, PIECE, sent))
            self._sent, self._last = sent, now
        return ended

    def close(self) -> None:
        """Let go of it."""
        os.close(self.descriptor)


def left_over(folder: Path, own: Path) -> Iterator[LogFile]:
    """The other files below `folder`, of processes that were killed together with their shippers.

    Nobody holds their locks. It happens where a container is killed as a whole for memory, and started again.
    """
    for path in sorted(set(folder.glob("*/*.log")) - {own}):
        if stream := Stream.of_file(path):
            file = LogFile(path, stream)
            if file.ended():
                yield file
            else:
                file.close()


class Copy:
    """A thread that writes to stdout what comes into a file, and to the log of the container if there is one."""

    def __init__(self, file: LogFile, container: str | None) -> None:
        self._file = file
        self._container = _opened(container) if container else None
        self._prefix = b"" if file.stream.rank is None else f"[{file.stream.source}] ".encode()
        self._line = b""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._copy, name="copy", daemon=True)
        self._thread.start()

    def finish(self, seconds: float) -> None:
        """End with what is there; return then, or after so many seconds where nobody takes it."""
        self._stopped.set()
        self._thread.join(seconds)

    def _copy(self) -> None:
        position, last = 0, False
        while not last:
            last = self._stopped.wait(POLL)
            while data := os.pread(self._file.descriptor, PIECE, position):
                position += len(data)
                _write(STDOUT, data)
                self._write_lines(data)
        self._write_lines(b"\n" if self._line else b"")

    def _write_lines(self, data: bytes) -> None:
        """Whole lines, and whose they are: the container's processes share its log."""
        if self._container is not None:
            *lines, self._line = (self._line + data).split(b"\n")
            _write(self._container, b"".join(self._prefix + line + b"\n" for line in lines))


def _opened(path: str) -> int | None:
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    except OSError:  # of another user, as where containers share their processes' numbers
        return None


def _write(descriptor: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError:  # a full disk, or a reader that has gone: the store gets it all the same
        return


def ship_all(uri: str, folder: Path, own: Path, every: float) -> None:
    """Bring the file `own` to the store and to stdout until its process has ended, and what is left over beside it."""
    stream = Stream.of_file(own)
    if stream is None:
        raise ValueError(f"{own} is no file of a run's logs")
    os.environ.setdefault("AWS_MAX_ATTEMPTS", ATTEMPTS)
    file = LogFile(own, stream, 0, every)
    copy, store, told = Copy(file, os.environ.get(CONTAINER_LOG)), open_store(uri), ""
    files = [file, *left_over(folder, own)]
    while files and (file.ended_at is None or time.monotonic() - file.ended_at < GIVE_UP):
        threading.Event().wait(POLL)
        try:
            for one in [one for one in files if one.ship(store)]:
                if one is file:
                    copy.finish(RETRY)
                one.path.unlink(missing_ok=True)
                one.close()
                files.remove(one)
        except (StorageError, OSError) as error:
            if str(error) != told:
                told = str(error)
                print(f"{file.stream.source}: output is kept here until it can be stored: {told}", file=sys.stderr)
            threading.Event().wait(RETRY)
