"""Files of pages: written by one process at a time under a lock, published whole, proved when they are read."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from finetune_trainer.store import crc64nvme

LEAST_PAUSE, MOST_PAUSE = 0.001, 0.02
"""Seconds between two looks at whether it is there: less than a request to an object store takes."""
TRAILER = 8
"""Bytes of the CRC64NVME of the page's name and content, little-endian, behind the content."""


def read_page(path: Path, size: int, name: int) -> bytes | None:
    """The page of `size` bytes whose name has the checksum `name`; None if it does not lie there whole."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        data = os.pread(file, size, 0)
        trailer = os.pread(file, TRAILER + 1, size)
    except OSError:  # of a disk that fails
        return None
    finally:
        os.close(file)
    return data if trailer == crc64nvme(data, name).to_bytes(TRAILER, "little") else None


def part_of(path: Path) -> Path:
    """Where a page is written before it is published."""
    return path.with_name(f"{path.name}.part")


def lock(path: Path, patience: float) -> int | None:
    """The file in which to write a page, opened and locked; None where others take more than `patience` seconds.

    Raises OSError where there can be no file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part, pause, deadline = part_of(path), LEAST_PAUSE, time.monotonic() + patience
    while True:
        file = os.open(part, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            if time.monotonic() > deadline:
                return None
            time.sleep(pause)
            pause = min(2 * pause, MOST_PAUSE)
        else:
            if _same(file, part):
                return file
            os.close(file)  # it was published, or given up


def unlock(file: int, path: Path) -> None:
    """Let the next one try, who finds the page if it was published."""
    with suppress(OSError):
        if _same(file, part_of(path)):  # it was not
            part_of(path).unlink()
    os.close(file)


def _same(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def publish(file: int, path: Path, data: bytes, checksum: int) -> None:
    """Write the page in place of what a killed process may have left, then give it its name."""
    part = part_of(path)
    try:
        os.ftruncate(file, 0)
        with open(file, "wb", closefd=False) as stream:
            stream.write(data)
            stream.write(checksum.to_bytes(TRAILER, "little"))
        os.rename(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
