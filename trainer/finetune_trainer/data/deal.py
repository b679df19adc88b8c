"""Who computes which rows of a global batch; pure."""

from __future__ import annotations

from collections.abc import Sequence


def deal(lengths: Sequence[int], rank: int, world_size: int, micro_batch_size: int) -> list[list[int]]:
    """The micro-batches of a rank, of at most `micro_batch_size` rows and equally many on every rank, by the numbers of
    the rows, whose `lengths` (tokens) these are.

    Rows are taken from long to short and cut into one group per rank and micro-step, whose sizes differ by at most one;
    a micro-step's groups go to the ranks in turn. So rows of like lengths meet in a micro-batch (little padding) and in
    a micro-step (little waiting), and the longest come first. Groups are empty where rows are fewer than groups.
    """
    count = len(lengths)
    groups = -(-count // (world_size * micro_batch_size)) * world_size
    by_length = sorted(range(count), key=lengths.__getitem__, reverse=True)
    return [
        by_length[_bound(group, count, groups) : _bound(group + 1, count, groups)]
        for group in range(rank, groups, world_size)
    ]


def _bound(group: int, rows: int, groups: int) -> int:
    """Where a group begins: the first `rows % groups` groups hold one row more than the others."""
    return group * (rows // groups) + min(group, rows % groups)
