"""Which documents share a row: best-fit decreasing bin packing, a pure function of the lengths."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np

from finetune_trainer.data.chunks import Ints


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of `lengths` in rows whose lengths add up to at most `capacity` (tokens), ascending in each.

    As `rows_of`, which says more.
    """
    if not len(lengths):
        return []
    rows = rows_of(np.array(lengths, dtype=np.int64), capacity)
    ends = np.cumsum(np.bincount(rows))
    return [group.tolist() for group in np.split(np.argsort(rows, kind="stable"), ends[:-1])]


def rows_of(lengths: Ints, capacity: int) -> Ints:
    """The row of each document, from 0: the lengths of a row add up to at most `capacity` (tokens); int64[documents].

    Takes the documents from long to short, ties in their order, and puts each into the row with the least room left
    that still holds it, ties to the oldest row (at most 11/9 of the best possible plus a few rows: Johnson et al., SIAM
    J. Comput. 3(4), 1974). Raises ValueError for a length of 0 or above `capacity`.
    """
    if len(lengths) and not 0 < lengths.min() <= lengths.max() <= capacity:
        raise ValueError(f"every length must lie between 1 and {capacity}")
    base, rows = len(lengths), 0
    order = np.argsort(-lengths, kind="stable")
    needed: list[int] = (lengths[order] * base).tolist()
    open_rows: list[int] = []  # room left x `base` + row, ascending: an integer is compared faster than a pair
    chosen: list[int] = []
    for need in needed:
        found = bisect_left(open_rows, need)
        if found < len(open_rows):
            left = open_rows.pop(found) - need
        else:
            left = capacity * base + rows - need
            rows += 1
        chosen.append(left)
        if left >= needed[-1]:  # room for the shortest
            insort(open_rows, left)
    found_rows = np.empty(base, dtype=np.int64)
    found_rows[order] = np.array(chosen, dtype=np.int64) % max(base, 1)
    return found_rows
