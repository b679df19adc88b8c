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
    if any(not 0 < length <= capacity for length in lengths):
        raise ValueError(f"every length must lie between 1 and {capacity}")
    rows: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []  # (room left, row), ascending
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        found = bisect_left(open_rows, (length, 0))
        if found < len(open_rows):
            room, row = open_rows.pop(found)
        else:
            room, row = capacity, len(rows)
            rows.append([])
        rows[row].append(index)
        if room > length:
            insort(open_rows, (room - length, row))
    return [sorted(row) for row in rows]
