"""Weights, gradients and optimizer state of one rank in bytes, as DeepSpeed 0.19 lays them out.

Read off its sources (runtime/zero/stage_1_and_2.py, stage3.py, runtime/bf16_optimizer.py, fp16/unfused_optimizer.py)
and checked against measurements (docs/memory.md). T are the elements that train, P all of them, W the ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from finetune_trainer.estimate.setup import Setup
from finetune_trainer.estimate.shape import EMBEDDING, HEAD, ModelShape
from finetune_trainer.estimate.trained import trained
from finetune_trainer.spec import MethodType

ALL_REDUCE_BUCKET = 500_000_000  # elements; DeepSpeed's engine.buffered_allreduce_fallback, not to be changed
HALF_BYTE = 0.5
BLOCK, BLOCKS = 64, 256
"""4-bit weights that share a scale; scales that share a float32 of their own where these have 8 bits
(arXiv:2305.14314, section 3; bitsandbytes 0.50)."""


class Place(StrEnum):
    """Where memory is taken."""

    DEVICE = "device"
    HOST = "host"


@dataclass(frozen=True)
class Item:
    """Bytes that one thing takes on one rank."""

    name: str
    size: float
    place: Place = Place.DEVICE


@dataclass(frozen=True)
class Counts:
    """Elements of a model: all weights, those that train, 4-bit ones, single ones, and those of a second model."""

    total: int
    trainable: int
    quantised: int = 0
    largest: int = 0
    largest_trainable: int = 0
    persistent: int = 0  # small enough for stage 3 to keep whole
    trains_head: bool = False  # the output embedding
    reference: int = 0


def count(model: ModelShape | int, setup: Setup) -> Counts:
    """What trains under the setup's method; of a model of which only the number of parameters is known, the least."""
    return _count_least(model, setup) if isinstance(model, int) else _count(model, setup)


def _count_least(parameters: int, setup: Setup) -> Counts:
    """Without adapters and what patterns name. A score head stands in place of an output embedding, which is at most
    half of the parameters, as the input embedding has the same size."""
    total = parameters // 2 if setup.scores else parameters
    return Counts(
        total=total,
        trainable=total if setup.method == MethodType.FULL and setup.full is None else 0,
        quantised=total if setup.method == MethodType.QLORA else 0,
        reference=parameters if setup.copies_model else 0,
    )


def _count(shape: ModelShape, setup: Setup) -> Counts:
    weights, found = dict(shape.weights(setup.labels)), trained(shape, setup)
    sizes, added = found.sizes, found.sizes if setup.method != MethodType.FULL else []
    heads = {EMBEDDING if shape.tied else f"{HEAD}.weight"}
    return Counts(
        total=sum(weights.values()) + sum(added),
        trainable=sum(sizes),
        quantised=_quantised(shape) if setup.method == MethodType.QLORA else 0,
        largest=max(weights.values()),
        largest_trainable=max(sizes, default=0),
        persistent=sum(size for size in [*weights.values(), *added] if size < setup.persistence),
        trains_head=not setup.scores and bool(heads & {*found.weights, *found.copies}),
        reference=shape.parameters if setup.copies_model else 0,
    )


def _quantised(shape: ModelShape) -> int:
    """Linear layers but for the output embedding; biases and fused experts stay as they are (`model.quantize`)."""
    return sum(linear.inputs * linear.outputs for name, linear in shape.linears() if ".experts." not in name)


def resident(counts: Counts, setup: Setup) -> Iterator[Item]:
    """What is held from the first update to the end of the run."""
    shard = setup.ranks if setup.zero_stage >= 1 else 1
    mine = counts.trainable / shard
    optimizer = Place.HOST if setup.offload_optimizer else Place.DEVICE
    yield from _weights(counts, setup)
    if setup.zero_stage >= 1 or setup.bf16:
        yield Item("master weights", 4 * mine, optimizer)
    yield Item("optimizer moments", 8 * mine, optimizer)
    if setup.zero_stage == 3 or _accumulates_wide(setup):
        held = 4 * (mine if setup.zero_stage == 3 else counts.trainable)
        yield Item("gradients", held, optimizer)
    if setup.offload_optimizer:
        yield Item("gradients", 4 * mine, Place.HOST)
        yield Item("offload buffers", setup.element * mine, Place.HOST)
        yield Item("offload buffers", setup.element * counts.largest_trainable)
    if setup.zero_stage == 3:
        yield Item("buckets", setup.element * setup.reduce_bucket)


def kept_gradients(counts: Counts, setup: Setup) -> Iterator[Item]:
    """What earlier micro-batches of a step leave for the last one."""
    if not setup.accumulates or setup.zero_stage == 3:
        return
    trainable, mine = counts.trainable, counts.trainable / setup.ranks
    if setup.zero_stage == 2:
        yield Item("gradients", 4 * mine, Place.HOST if setup.offload_optimizer else Place.DEVICE)
        return
    yield Item("gradients", setup.element * trainable)
    if setup.zero_stage == 1 and not _accumulates_wide(setup):
        yield Item("buckets", bucket(setup))
        yield Item("gradients", 4 * trainable if setup.bf16 else 0)


def bucket(setup: Setup) -> int:
    """Bytes of the buffers that gradients are reduced from, at stages 1 and 2; two of them where they overlap."""
    if setup.zero_stage not in (1, 2) or _accumulates_wide(setup):
        return 0
    return setup.element * setup.reduce_bucket * (2 if setup.on_gpu else 1)


def reduction(counts: Counts, setup: Setup) -> Iterator[Item]:
    """What reducing the last micro-batch's gradients takes beside `resident` and `kept_gradients`."""
    trainable, mine, element = counts.trainable, counts.trainable / setup.ranks, setup.element
    filled = min(trainable, setup.reduce_bucket)
    if not setup.accumulates and setup.zero_stage < 2:
        yield Item("gradients", element * trainable)
    if setup.zero_stage == 0:
        yield Item("buckets", element * min(trainable, ALL_REDUCE_BUCKET))
    elif _accumulates_wide(setup):
        yield Item("buckets", (4 + 2) * min(trainable, ALL_REDUCE_BUCKET))
    elif setup.zero_stage == 1:
        yield Item("buckets", 0 if setup.accumulates else bucket(setup))
        yield Item("gradients", max(0.0, 4 * mine - 4 * filled))
    elif setup.zero_stage == 2:
        yield Item("buckets", bucket(setup) + _flat(setup, min(filled, mine)))
        if not setup.offload_optimizer and (not setup.bf16 or not setup.accumulates):
            yield Item("gradients", 4 * mine)
    else:
        yield Item("buckets", _flat(setup, filled) + (0 if setup.bf16 else element * filled))


def update(counts: Counts, setup: Setup) -> Iterator[Item]:
    """What the update takes beside `resident`, once the gradients were reduced."""
    trainable, mine = counts.trainable, counts.trainable / setup.ranks
    if setup.zero_stage == 0:
        yield Item("gradients", setup.element * trainable)
        yield Item("gradients", 4 * trainable if setup.bf16 else 0)
    elif _accumulates_wide(setup):
        yield Item("gradients", setup.element * trainable)
    elif setup.offload_optimizer:
        return
    elif setup.zero_stage == 3:
        yield Item("gradients", 4 * mine)
    else:
        yield Item("gradients", (4 if setup.bf16 else 8) * mine)
        yield Item("buckets", 8 * min(counts.largest_trainable, mine) if setup.bf16 else 0)  # its norm, in float64


def gathered(counts: Counts, setup: Setup) -> float:
    """Bytes of weights that stage 3 has put together at a time."""
    if setup.zero_stage < 3 or setup.ranks == 1:
        return 0
    return setup.element * min(counts.total - counts.persistent, setup.max_live)


def gathering(counts: Counts, setup: Setup) -> float:
    """Bytes of the copy from which stage 3 puts weights together."""
    if setup.zero_stage < 3 or setup.ranks == 1:
        return 0
    return setup.element * min(counts.total - counts.persistent, setup.prefetch_bucket + counts.largest)


def _weights(counts: Counts, setup: Setup) -> Iterator[Item]:
    plain = setup.element * (counts.total - counts.quantised)
    yield Item("reference model", setup.element * counts.reference)
    if setup.zero_stage < 3:
        scales = 1 / BLOCK + 4 / (BLOCK * BLOCKS) if setup.double_quantization else 4 / BLOCK
        yield Item("weights", plain + (HALF_BYTE + scales) * counts.quantised)
        return
    yield Item("weights", plain / setup.ranks, Place.HOST if setup.offload_parameters else Place.DEVICE)
    yield Item("weights", setup.element * counts.persistent if setup.ranks > 1 else 0)


def _accumulates_wide(setup: Setup) -> bool:
    """Whether DeepSpeed takes its BF16_Optimizer, which holds whole float32 gradients (engine.py, sanity check)."""
    return setup.zero_stage == 1 and setup.bf16 and not setup.offload_optimizer


def _flat(setup: Setup, filled: float) -> float:
    """The copy of a bucket that is sent to other ranks, and in bfloat16 the float32 one that it is converted to."""
    sent = setup.element if setup.ranks > 1 or setup.zero_stage == 3 else 0
    return (sent + (4 if setup.bf16 else 0)) * filled
