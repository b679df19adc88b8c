"""Where the tensors of a checkpoint lie in its objects.

`TensorSlices` in the log entry says which object holds which slice, so that a reader with another partitioning fetches
only what overlaps its own fragments.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict


class TensorSlices(BaseModel):
    """Where one trainable parameter lies: its full shape and, per stored slice, [object name, start, elements]."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shape: tuple[int, ...]
    slices: tuple[tuple[str, int, int], ...]


class EngineState(BaseModel):
    """The engine's part of a checkpoint's log entry."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    world_size: int
    zero_stage: int
    optimizer_steps: int
    tensors: dict[str, TensorSlices]
    rng: tuple[str, ...]
    """Name of the object with the random-number state of each rank."""
    blocks: tuple[str, ...] = ()
    """Name of the object with the `RankBlocks` of each rank; none in checkpoints of older versions."""


@dataclass(frozen=True)
class RankSlices:
    """What one rank wrote, in plain values that travel between ranks."""

    tensors: dict[str, tuple[tuple[int, ...], list[tuple[str, int, int]]]]
    rng: str
    blocks: str

    def add(self, name: str, shape: tuple[int, ...], piece: tuple[str, int, int]) -> None:
        """Note one stored slice of a parameter."""
        self.tensors.setdefault(name, (shape, []))[1].append(piece)


def rng_name(rank: int) -> str:
    """Object name of a rank's random-number state."""
    return f"rng-{rank:05d}.safetensors"


def blocks_name(rank: int) -> str:
    """Object name of the blocks of what a rank wrote."""
    return f"blocks-{rank:05d}.json"


def state_name(rank: int, number: int) -> str:
    """Object name of a rank's tensors; the objects of a rank are numbered."""
    return f"state-{rank:05d}-{number:05d}.safetensors"


def writer_of(name: str) -> int:
    """The rank that wrote the object of this `state_name`."""
    return int(name.split("-")[1])


def merge(ranks: Sequence[RankSlices], zero_stage: int, optimizer_steps: int) -> EngineState:
    """The engine's part of the log entry from what all ranks wrote."""
    shapes: dict[str, tuple[int, ...]] = {}
    pieces: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
    for written in ranks:
        for name, (shape, found) in written.tensors.items():
            shapes[name] = shape
            pieces[name] += found
    tensors = {name: TensorSlices(shape=shapes[name], slices=tuple(pieces[name])) for name in shapes}
    return EngineState(
        world_size=len(ranks),
        zero_stage=zero_stage,
        optimizer_steps=optimizer_steps,
        tensors=tensors,
        rng=tuple(written.rng for written in ranks),
        blocks=tuple(written.blocks for written in ranks),
    )


def tensor_key(kind: str, start: int, name: str) -> str:
    """The name in its object of a slice from element `start` on of a parameter's master weights or moment."""
    return f"{kind}|{start}|{name}"
