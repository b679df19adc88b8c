"""Training state to objects and back: the tensors of a checkpoint, without the log entry that commits it.

Objects are safetensors files (no pickle) with keys `<kind>|<start>|<parameter>`; `TensorSlices` in the log entry says
which object holds which slice, so a reader with another partitioning fetches only what overlaps its own fragments.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as to_safetensors

from finetune_trainer.engine.fragments import (
    KINDS,
    Fragment,
    fragments,
    optimizer_step_count,
    refresh_model,
    set_optimizer_step_count,
)

SHARD_ELEMENTS = 16 * 2**20  # parameters per object: 192 MiB with master weights and two moments, a single PUT each


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
class Piece:
    """A slice on its way into an object."""

    name: str
    shape: tuple[int, ...]
    start: int
    tensors: dict[str, torch.Tensor]

    @property
    def numel(self) -> int:
        """Elements of each of its tensors."""
        return self.tensors["master"].numel()


def shards(owned: Iterable[Fragment]) -> Iterator[list[Piece]]:
    """Group fragments, split where they are large, into lists of at most `SHARD_ELEMENTS` elements."""
    shard: list[Piece] = []
    room = SHARD_ELEMENTS
    for fragment in owned:
        done = 0
        while done < fragment.numel:
            size = min(room, fragment.numel - done)
            views = {kind: tensor.narrow(0, done, size) for kind, tensor in fragment.tensors.items()}
            shard.append(Piece(fragment.name, fragment.shape, fragment.start + done, views))
            done, room = done + size, room - size
            if room == 0:
                yield shard
                shard, room = [], SHARD_ELEMENTS
    if shard:
        yield shard


def save_rank(
    engine: Any, rank: int, world_size: int, write: Callable[[str, bytes], Any]
) -> tuple[list[Any], RankSlices]:
    """Write this rank's share through `write(name, data)`; returns what `write` returned and where the slices are."""
    references, slices = [], RankSlices({}, rng_name(rank))
    owned = (fragment for fragment in fragments(engine, rank, world_size) if fragment.owned)
    for number, shard in enumerate(shards(owned)):
        name = f"state-{rank:05d}-{number:05d}.safetensors"
        references.append(write(name, _encode(shard)))
        for piece in shard:
            slices.add(piece.name, piece.shape, (name, piece.start, piece.numel))
    references.append(write(slices.rng, to_safetensors(random_state())))
    return references, slices


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


def merge(engine: Any, ranks: list[RankSlices]) -> EngineState:
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
        zero_stage=engine.zero_optimization_stage(),
        optimizer_steps=optimizer_step_count(engine),
        tensors=tensors,
        rng=tuple(written.rng for written in ranks),
    )


def load_rank(engine: Any, state: EngineState, rank: int, world_size: int, read: Callable[[str], bytes]) -> None:
    """Copy into this rank's live fragments whatever `state` has of them, object by object; then refresh the weights.

    `read(name)` returns a verified object. Raises ValueError when the parameters differ in name, shape or coverage.
    """
    set_optimizer_step_count(engine, state.optimizer_steps)
    copy_slices(engine, state, rank, world_size, read)
    refresh_model(engine)
    if world_size == state.world_size:
        set_random_state(parse_safetensors(read(state.rng[rank])))


def copy_slices(
    engine: Any,
    state: EngineState,
    rank: int,
    world_size: int,
    read: Callable[[str], bytes],
    kinds: Sequence[str] = KINDS,
) -> None:
    """Copy the tensors of these `kinds` into this rank's live fragments; `load_rank` says what is raised. Local."""
    mine = {fragment.name: fragment for fragment in fragments(engine, rank, world_size)}
    wanted: dict[str, list[tuple[Fragment, int, int]]] = defaultdict(list)
    for fragment in mine.values():
        for name, start, numel in _overlapping(state, fragment):
            wanted[name].append((fragment, start, numel))
    for name, targets in wanted.items():
        stored = parse_safetensors(read(name))
        for fragment, start, numel in targets:
            _copy(stored, fragment, start, numel, kinds)


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


def _copy(stored: dict[str, torch.Tensor], fragment: Fragment, start: int, numel: int, kinds: Sequence[str]) -> None:
    low, high = max(start, fragment.start), min(start + numel, fragment.start + fragment.numel)
    for kind in kinds:
        source = stored[_key(kind, start, fragment.name)].narrow(0, low - start, high - low)
        fragment.tensors[kind].narrow(0, low - fragment.start, high - low).copy_(source)


def _encode(shard: list[Piece]) -> bytes:
    return to_safetensors(
        {
            _key(kind, piece.start, piece.name): tensor.detach().to("cpu", torch.float32).contiguous()
            for piece in shard
            for kind, tensor in piece.tensors.items()
        }
    )


def _key(kind: str, start: int, name: str) -> str:
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
