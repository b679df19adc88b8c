"""How much a load under another partitioning reads of a model of 8 billion parameters, against what its ranks need."""

from __future__ import annotations

import base64
import math
from collections import defaultdict
from collections.abc import Iterator
from itertools import accumulate

import pytest
import torch

from finetune_trainer.engine.blocks import BLOCK_BYTES, FLOAT_BYTES, ObjectBlocks, needed
from finetune_trainer.engine.fragments import KINDS, Fragment
from finetune_trainer.engine.load import overlapping, targets
from finetune_trainer.engine.share import shards
from finetune_trainer.engine.snapshot import EngineState, TensorSlices, state_name

GOAL = 1.05
WIDTH, HIDDEN, VOCABULARY, LAYERS = 4096, 14336, 128256, 32  # Llama 3 8B
_LAYER: list[tuple[int, ...]] = [
    *((WIDTH, WIDTH), (1024, WIDTH), (1024, WIDTH), (WIDTH, WIDTH)),
    *((HIDDEN, WIDTH), (HIDDEN, WIDTH), (WIDTH, HIDDEN), (WIDTH,), (WIDTH,)),
]
SHAPES: list[tuple[int, ...]] = [(VOCABULARY, WIDTH), *(LAYERS * _LAYER), (WIDTH,), (VOCABULARY, WIDTH)]
STARTS = list(accumulate(map(math.prod, SHAPES), initial=0))
Partitioning = tuple[int, int]  # ZeRO stage, world size


def held(partitioning: Partitioning, rank: int) -> Iterator[Fragment]:
    """What a rank holds: at stage 3 its part of every parameter, at 1 and 2 its part of all of them laid end to end."""
    stage, world_size = partitioning
    low, high = (-(-STARTS[-1] // world_size) * r for r in (rank, rank + 1))
    for number, shape in enumerate(SHAPES):
        size, begin = math.prod(shape), STARTS[number]
        start, end = max(low - begin, 0), min(high - begin, size)
        if stage == 3:
            start, end = (min(-(-size // world_size) * r, size) for r in (rank, rank + 1))
        if start < end:
            tensors = dict.fromkeys(KINDS, torch.empty(end - start, device="meta"))
            yield Fragment(str(number), shape, start, end - start, tensors, owned=True)


def saved(partitioning: Partitioning) -> tuple[EngineState, dict[str, ObjectBlocks]]:
    """The state that the ranks save, and the blocks of each object."""
    slices: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
    objects: dict[str, ObjectBlocks] = {}
    for rank in range(partitioning[1]):
        for number, shard in enumerate(shards(held(partitioning, rank))):
            name = state_name(rank, number)
            objects[name] = blocks([(piece.name, piece.start, piece.numel) for piece in shard])
            for piece in shard:
                slices[piece.name].append((name, piece.start, piece.numel))
    tensors = {name: TensorSlices(shape=SHAPES[int(name)], slices=tuple(found)) for name, found in slices.items()}
    state = EngineState(
        world_size=partitioning[1], zero_stage=partitioning[0], optimizer_steps=1, tensors=tensors, rng=()
    )
    return state, objects


def blocks(pieces: list[tuple[str, int, int]]) -> ObjectBlocks:
    """The blocks of an object, without their checksums."""
    count = sum(len(KINDS) * math.ceil(FLOAT_BYTES * numel / BLOCK_BYTES) for _, _, numel in pieces)
    return ObjectBlocks(data=1000, pieces=tuple(pieces), crcs=base64.b64encode(bytes(8 * count)))


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ((2, 8), (2, 8)),
        ((2, 8), (2, 16)),
        ((2, 8), (2, 7)),
        ((2, 16), (2, 8)),
        ((3, 8), (3, 8)),
        ((3, 16), (3, 8)),
        ((3, 8), (3, 1)),
        ((3, 8), (3, 16)),
        ((3, 8), (3, 7)),
        ((3, 8), (2, 8)),
        ((2, 8), (3, 8)),
    ],
    ids=lambda partitioning: "stage {} on {}".format(*partitioning),
)
def test_a_load_reads_little_more_than_its_ranks_need(before: Partitioning, now: Partitioning) -> None:
    state, objects = saved(before)
    ratios = []
    for rank in range(now[1]):
        mine = list(held(now, rank))
        wanted = {name: targets(objects[name], hits) for name, hits in overlapping(state, mine).items()}
        ranges = {name: [(one.begin, one.end) for one in found] for name, found in wanted.items()}
        read = sum(span.end - span.begin for name, found in ranges.items() for span in needed(objects[name], found))
        ratios.append(read / sum(FLOAT_BYTES * len(KINDS) * fragment.numel for fragment in mine))
    print(f"read {min(ratios):.4f} to {max(ratios):.4f} of what is needed")
    assert min(ratios) >= 1.0 and max(ratios) <= GOAL
