"""Sequences of different lengths as batches that fit into memory, dealt to ranks so that all call the model equally."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from finetune_trainer.engine.collectives import ControlGroup

Value = TypeVar("Value")

MOST_ROWS = 64
"""Rows of a batch: more bring nothing on a GPU and cost memory for logits."""

Batch = list[int]
"""Places of its sequences among all."""


def batches_of(lengths: Sequence[int], most_tokens: int) -> list[Batch]:
    """The places of all sequences in batches of at most `most_tokens` tokens with padding, or of one sequence.

    Longest first, so that what does not fit into memory fails at once. The same for every number of ranks.
    """
    batches: list[Batch] = []
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        longest = lengths[batches[-1][0]] if batches else 0
        if batches and len(batches[-1]) < MOST_ROWS and longest * (len(batches[-1]) + 1) <= most_tokens:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches


def on_all_ranks(
    batches: Sequence[Batch],
    work: Callable[[Batch], Sequence[Value]],
    control: ControlGroup,
    between_batches: Callable[[], None],
) -> dict[int, Value]:
    """`work` of every batch, each on one rank; the values by place, the same on every rank. Collective.

    Every rank calls `between_batches` and `work` equally often; a rank that is short of a batch does the first one
    again, and forgets what came out, since its peers may need it to gather weights.
    """
    mine: dict[int, Value] = {}
    for first in range(0, len(batches), control.world_size):
        between_batches()
        number = first + control.rank
        batch = batches[number] if number < len(batches) else batches[0]
        values = work(batch)
        if number < len(batches):
            mine.update(zip(batch, values, strict=True))
    return {place: value for part in control.gather(mine) for place, value in part.items()}
