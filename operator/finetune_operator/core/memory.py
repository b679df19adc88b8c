"""The garbage collector, for a process that holds many objects for long and makes few cycles."""

from __future__ import annotations

import gc

FIRST_GENERATION = 50_000
"""Allocations between two collections: one decoded page of a list, not one object, and a few ms each."""


def settle() -> None:
    """Never look again at what exists now. Call it once all is imported, and again when the caches are filled.

    With 10,000 RayJobs in a cache a full collection stops everything for 0.2 s, and decoding takes a third longer.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(FIRST_GENERATION, 20, 20)
