"""Who computes which rows of a global batch; pure."""

from __future__ import annotations

from collections.abc import Sequence

from finetune_trainer.data.rows import Row

MicroBatches = list[list[Row]]


def deal(rows: Sequence[Row], world_size: int, micro_batch_size: int) -> list[MicroBatches]:
    """The micro-batches of every rank, of at most `micro_batch_size` rows and equally many on every rank.

    Rows are taken from long to short and cut into one group per rank and micro-step, whose sizes differ by at most one;
    a micro-step's groups go to the ranks in turn. So rows of like lengths meet in a micro-batch (little padding) and in
    a micro-step (little waiting), and the longest come first. Groups are empty where rows are fewer than groups.
    """
    if not rows:
        return [[] for _ in range(world_size)]
    steps = -(-len(rows) // (world_size * micro_batch_size))
    groups = steps * world_size
    by_length = sorted(rows, key=lambda row: -len(row))
    bounds = [_bound(i, len(rows), groups) for i in range(groups + 1)]
    return [
        [by_length[bounds[g] : bounds[g + 1]] for g in range(rank, groups, world_size)] for rank in range(world_size)
    ]


def _bound(group: int, rows: int, groups: int) -> int:
    """Where a group begins: the first `rows % groups` groups hold one row more than the others."""
    return group * (rows // groups) + min(group, rows % groups)
