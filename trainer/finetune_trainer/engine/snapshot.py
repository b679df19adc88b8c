"""Where the tensors of a checkpoint lie in its objects, and the way back into an engine.

`TensorSlices` in the log entry says which object holds which slice, so that a reader with another partitioning fetches
only what overlaps its own fragments.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load as parse_safetensors

from finetune_trainer.engine.fragments import (
    KINDS,
    Fragment,
    fragments,
    refresh_model,
    set_optimizer_step_count,
)


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


@dataclass(frozen=True)
class RankSlices:
    """What one rank wrote, in plain values that travel between ranks."""

    tensors: dict[str, tuple[tuple[int, ...], list[tuple[str, int, int]]]]
    rng: str

    def add(self, name: str, shape: tuple[int, ...], piece: tuple[str, int, int]) -> None:
        """Note one stored slice of a parameter."""
        self.tensors.setdefault(name, (shape, []))[1].append(piece)


def rng_name(rank: int) -> str:
    """Object name of a rank's random-number state."""
    return f"rng-{rank:05d}.safetensors"


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
    )


def load_rank(engine: Any, state: EngineState, rank: int, world_size: int, read: Callable[[str], bytes]) -> None:
    """Copy into this rank's live fragments whatever `state` has of them, object by object; then refresh the weights.

    `read(name)` returns a verified object. Raises ValueError when the parameters differ in name, shape or coverage.
    """
    mine = {fragment.name: fragment for fragment in fragments(engine, rank, world_size)}
    set_optimizer_step_count(engine, state.optimizer_steps)
    wanted: dict[str, list[tuple[Fragment, int, int]]] = defaultdict(list)
    for fragment in mine.values():
        for name, start, numel in _overlapping(state, fragment):
            wanted[name].append((fragment, start, numel))
    for name, targets in wanted.items():
        stored = parse_safetensors(read(name))
        for fragment, start, numel in targets:
            _copy(stored, fragment, start, numel)
    refresh_model(engine)
    if world_size == state.world_size:
        set_random_state(parse_safetensors(read(state.rng[rank])))


def _overlapping(state: EngineState, fragment: Fragment) -> list[tuple[str, int, int]]:
    entry = state.tensors.get(fragment.name)
    if entry is None or entry.shape != fragment.shape:
        found = "is not in it" if entry is None else f"has shape {list(entry.shape)} there"
        raise ValueError(f"the checkpoint is of another model: {fragment.name} {list(fragment.shape)} {found}")
    end = fragment.start + fragment.numel
    hits = [piece for piece in entry.slices if piece[1] < end and fragment.start < piece[1] + piece[2]]
    covered = sum(min(end, start + numel) - max(fragment.start, start) for _, start, numel in hits)
    if covered != fragment.numel:
        raise ValueError(f"the checkpoint holds {covered} of {fragment.numel} elements of a slice of {fragment.name}")
    return hits


def _copy(stored: dict[str, torch.Tensor], fragment: Fragment, start: int, numel: int) -> None:
    low, high = max(start, fragment.start), min(start + numel, fragment.start + fragment.numel)
    for kind in KINDS:
        source = stored[tensor_key(kind, start, fragment.name)].narrow(0, low - start, high - low)
        fragment.tensors[kind].narrow(0, low - fragment.start, high - low).copy_(source)


def tensor_key(kind: str, start: int, name: str) -> str:
    """The name in its object of a slice from element `start` on of a parameter's master weights or moment."""
    return f"{kind}|{start}|{name}"


def random_state() -> dict[str, torch.Tensor]:
    """This rank's generators as uint8 tensors: the CPU's, and the current CUDA device's where there is one."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, torch.Tensor]) -> None:
    """Put back what `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
