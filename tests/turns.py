"""Who may run beside whom, where several processes share the tests of one session (`pytest -n 2`).

A test that measures time has the machine to itself: it is marked `alone`. All others run beside each other.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def turn(folder: Path, *, alone: bool) -> Iterator[None]:
    """Hold a place among the processes that use `folder`, or, `alone`, the only one.

    Who waits for the only place stands in the door, so that nobody else comes in before.
    """
    inside = _opened(folder / "room")
    try:
        door = _opened(folder / "door")
        try:
            fcntl.flock(door, fcntl.LOCK_EX)
            fcntl.flock(inside, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        finally:
            os.close(door)  # which unlocks it
        yield
    finally:
        os.close(inside)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
