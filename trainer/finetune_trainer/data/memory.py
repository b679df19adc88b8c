"""Memory of large arrays that are gone, for the next ones.

The allocators of numpy and Arrow give some MB back to the kernel when they are freed, and the next array of that size
pays for each page of it again: five times what a gather of tokens into memory that is there already takes.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_BYTES = 1 << 18
"""Smaller arrays come out of what the allocator keeps anyway."""
SPARE = 4
"""Buffers of a size that are kept: a block is gathered from two, while one is trained on and one waits."""

_free: defaultdict[int, list[NDArray[np.uint8]]] = defaultdict(list)


def empty(count: int, kind: np.dtype[Any]) -> NDArray[Any]:
    """An array of `count` values that are not set, as np.empty; its memory is used again once no view of it is left.

    Thread-safe: a list's pop and append are atomic, and no lock is held, as views may end in a garbage collection.
    """
    size = count * kind.itemsize
    if size < LEAST_BYTES:
        return np.empty(count, dtype=kind)
    free = _free[1 << (size - 1).bit_length()]
    try:
        held = free.pop()
    except IndexError:
        held = np.empty(1 << (size - 1).bit_length(), dtype=np.uint8)
    found = np.frombuffer(held.data, dtype=kind, count=count)
    # The memoryview below `found` lives as long as any view of `found` does; nothing else knows it.
    weakref.finalize(found.base, _give_back, free, held).atexit = False
    return found


def joined(parts: list[NDArray[Any]], kind: np.dtype[Any]) -> NDArray[Any]:
    """`parts`, at least one, one behind the other, as `kind`."""
    return np.concatenate(parts, out=empty(sum(map(len, parts)), kind))


def _give_back(free: list[NDArray[np.uint8]], held: NDArray[np.uint8]) -> None:
    if len(free) < SPARE:
        free.append(held)
