"""Memory that a rank's state is copied into before it is stored, so that training need not wait for the store."""

from __future__ import annotations

import logging
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch

from finetune_trainer.engine.memory import available_bytes
from finetune_trainer.engine.share import Share

PAGE = mmap.PAGESIZE
SPARE_BYTES = 512 * 2**20  # of the file system in memory, for NCCL's buffers and Ray's objects
MOST_OF_WHAT_IS_LEFT = 0.5
"""Share of the available memory that all copies of a node may take; the rest is training's own."""
UNPINNED = (
    "%s cannot be locked in memory (CUDA error %d), so that checkpoints are copied more slowly: let FINETUNE_STAGING "
    "be a folder of /dev/shm, and `ulimit -l` be unlimited"
)

logger = logging.getLogger(__name__)


class Pinned(NamedTuple):
    """Where what is locked for a GPU begins; 0 where it could not be locked."""

    address: int
    device: torch.device


def places(share: Share) -> list[int]:
    """Where a share's objects lie in an arena, in bytes from its start, each on a page of its own; and their end."""
    pages = (-(-one.size // PAGE) for one in share.objects)
    return [PAGE * page for page in accumulate(pages, initial=0)]


class Arena:
    """A mapping that grows to what it has to hold and is kept from save to save.

    With a `path`, on a file system in memory, it is a file that outlives the process; without one, or where that file
    system is too small, it is the process's own memory.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._map: mmap.mmap | None = None
        self._pinned: Pinned | None = None

    def reserve(self, share: Share, ranks_here: int) -> bool:
        """Make room for a copy of it; False, and nothing is taken, where `ranks_here` such copies are too many here."""
        size = places(share)[-1]
        if self._map is not None and len(self._map) >= size:
            return True
        self.release()
        if size * ranks_here > available_bytes() * MOST_OF_WHAT_IS_LEFT:
            return False
        self._map = self._file(size) or mmap.mmap(-1, max(size, PAGE))
        return True

    @property
    def is_file(self) -> bool:
        """Whether what it holds outlives the process."""
        return self._map is not None and self.path is not None and self.path.exists()

    def view(self, start: int, size: int) -> memoryview:
        """`size` bytes from `start` on."""
        assert self._map is not None
        return memoryview(self._map)[start : start + size]

    def pin(self, device: torch.device) -> None:
        """Lock it for copies from this GPU, once (cudaHostRegister).

        Without, they are slower, and right all the same: as where the file lies on a disk, whose pages no GPU may hold,
        or where less memory may be locked.
        """
        assert self._map is not None
        if self._pinned is None:
            address = torch.frombuffer(self._map, dtype=torch.uint8).data_ptr()
            with torch.cuda.device(device):  # a new thread begins at the first GPU, and would open a context there
                error = int(_cuda().cudaHostRegister(address, len(self._map), 0))
                if error:
                    _forget_error()
                    logger.warning(UNPINNED, self.path or "memory for checkpoints", error)
            self._pinned = Pinned(0 if error else address, device)

    def release(self) -> None:
        """Give the memory up, file and all."""
        if self._pinned is not None and self._pinned.address:
            with torch.cuda.device(self._pinned.device):
                torch.cuda.check_error(int(_cuda().cudaHostUnregister(self._pinned.address)))
        self._pinned = None
        self._map = None  # unmapped with the last view of it
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _file(self, size: int) -> mmap.mmap | None:
        """A new file of that size, its pages taken now, where a write cannot fail for want of them; None: no room."""
        if self.path is None:
            return None
        with suppress(OSError):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            there = os.statvfs(self.path.parent)
            if there.f_bavail * there.f_frsize < size + SPARE_BYTES:
                return None
            with self.path.open("xb+") as file:
                os.posix_fallocate(file.fileno(), 0, max(size, PAGE))
                return mmap.mmap(file.fileno(), 0)
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        return None


def stage(share: Share, arena: Arena) -> list[memoryview]:
    """Copy the state into the arena, which has room for it; returns each object's bytes. Training may go on then."""
    views = [arena.view(start, one.size) for start, one in zip(places(share), share.objects, strict=False)]
    if share.ready is not None:
        arena.pin(share.device)
    with _beside_training(share):
        for one, view in zip(share.objects, views, strict=True):
            one.fill(view)
    return views


def in_turns(share: Share) -> Iterator[memoryview]:
    """The bytes of one object after the other, in one buffer: valid until the next; for want of memory for all."""
    buffer = bytearray(max((one.size for one in share.objects), default=0))
    for one in share.objects:
        view = memoryview(buffer)[: one.size]
        with _beside_training(share):
            one.fill(view)
        yield view


@contextmanager
def _beside_training(share: Share) -> Iterator[None]:
    """Copies made here run on a stream of their own, behind what made the state, and are done when this ends."""
    if share.ready is None:
        yield
        return
    with torch.cuda.device(share.device):  # a new thread begins at the first GPU
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            stream.wait_event(share.ready)
            yield
        stream.synchronize()


def _cuda() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]


def _forget_error() -> None:
    """Take back the refusal that CUDA keeps for a thread, or the next kernel that it launches would be told of it."""
    with suppress(RuntimeError):
        torch.zeros(1, device="cuda")
