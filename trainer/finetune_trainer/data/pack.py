"""Which documents share a row: best-fit decreasing bin packing, a pure function of the lengths."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of `lengths` in rows whose lengths add up to at most `capacity` (tokens).

    Takes the documents from long to short, ties in their order, and puts each into the row with the least room left
    that still holds it, ties to the oldest row (at most 11/9 of the best possible plus a few rows: Johnson et al., SIAM
    J. Comput. 3(4), 1974). The documents of a row stand in ascending order of their index. Raises ValueError for a
    length of 0 or above `capacity`.
    """
    if lengths and not 0 < min(lengths) <= max(lengths) <= capacity:
        raise ValueError(f"every length must lie between 1 and {capacity}")
    rows: list[list[int]] = []
    open_rows: list[int] = []  # room left x `base` + row, ascending: an integer is compared faster than a pair
    base = len(lengths)
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        needed = lengths[index] * base
        found = bisect_left(open_rows, needed)
        if found < len(open_rows):
            left = open_rows.pop(found) - needed
            rows[left % base].append(index)
        else:
            left = capacity * base + len(rows) - needed
            rows.append([index])
        if left >= base:
            insort(open_rows, left)
    for row in rows:
        row.sort()
    return rows
