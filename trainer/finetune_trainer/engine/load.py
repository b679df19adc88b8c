"""A checkpoint's tensors back into an engine of any partitioning: each rank reads what it holds, and verifies it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from safetensors.torch import load as parse_safetensors

from finetune_trainer.engine.blocks import FLOAT_BYTES, ObjectBlocks, RankBlocks, Span, needed
from finetune_trainer.engine.fragments import (
    KINDS,
    Fragment,
    fragments,
    refresh_model,
    set_optimizer_step_count,
)
from finetune_trainer.engine.random_numbers import set_random_state
from finetune_trainer.engine.snapshot import EngineState, tensor_key, writer_of

READS = 4
"""Reads of a rank at once; one connection to S3 carries about 100 MB/s (AWS' performance guidelines)."""


class Source(Protocol):
    """A checkpoint's objects by name; both methods raise CorruptObject for what is not as it was stored."""

    def whole(self, name: str) -> bytes:
        """An object."""
        ...

    def part(self, name: str, span: Span) -> memoryview:
        """The bytes of an object in `span`, in a writable buffer that this thread's next call fills anew."""
        ...


@dataclass(frozen=True)
class Target:
    """Where the bytes [begin, end) of an object go: a flat float32 view of the live state."""

    begin: int
    end: int
    tensor: torch.Tensor


def fill(engine: Any, state: EngineState, rank: int, world_size: int, source: Source) -> bytes | None:
    """Copy this rank's part of a state into its live fragments (`copy_slices`).

    Returns its random-number state for `take_over`, which every rank calls next; None at another world size.
    """
    set_optimizer_step_count(engine, state.optimizer_steps)
    copy_slices(engine, state, rank, world_size, source)
    return source.whole(state.rng[rank]) if world_size == state.world_size else None


def copy_slices(
    engine: Any,
    state: EngineState,
    rank: int,
    world_size: int,
    source: Source,
    kinds: Sequence[str] = KINDS,
) -> None:
    """Copy into this rank's live fragments whatever `state` has of their tensors of these `kinds`.

    Raises ValueError when the parameters differ in name, shape or coverage. When it raises CorruptObject, the engine
    holds a part of this state: load another one, or begin anew.
    """
    wanted = overlapping(state, fragments(engine, rank, world_size))
    if not state.blocks:
        for name, hits in wanted.items():
            _copy_whole(source.whole(name), hits, kinds)
        return
    maps = {writer: RankBlocks.model_validate_json(source.whole(state.blocks[writer])) for writer in _writers(wanted)}
    with ThreadPoolExecutor(READS, thread_name_prefix="load") as pool:
        for name, hits in wanted.items():
            goals = targets(maps[writer_of(name)].objects[name], hits, kinds)
            spans = needed(maps[writer_of(name)].objects[name], ((one.begin, one.end) for one in goals))
            list(pool.map(lambda span, name=name, goals=goals: _copy_part(source, name, span, goals), spans))


def take_over(engine: Any, random_numbers: bytes | None) -> None:
    """Make the weights follow what `fill` copied on every rank, and draw the same random numbers on; collective."""
    refresh_model(engine)
    if random_numbers is not None:
        set_random_state(parse_safetensors(random_numbers))


Hit = tuple[Fragment, int, int]
"""A fragment, and the first element and the elements of a stored slice that overlaps it."""


def overlapping(state: EngineState, mine: Sequence[Fragment]) -> dict[str, list[Hit]]:
    """The stored slices that overlap a rank's fragments, by the object that has them. ValueError as `copy_slices`."""
    wanted: dict[str, list[Hit]] = defaultdict(list)
    for fragment in mine:
        for name, start, numel in _slices_of(state, fragment):
            wanted[name].append((fragment, start, numel))
    return wanted


def targets(blocks: ObjectBlocks, hits: Sequence[Hit], kinds: Sequence[str] = KINDS) -> list[Target]:
    """Where the bytes of an object go that hold what is wanted of it."""
    places = {(name, start, kind): begin for name, start, kind, begin, _ in blocks.tensors()}
    found = []
    for fragment, start, numel in hits:
        low, high = _common(fragment, start, numel)
        for kind in kinds:
            begin = places[fragment.name, start, kind]
            span = (begin + FLOAT_BYTES * (low - start), begin + FLOAT_BYTES * (high - start))
            found.append(Target(*span, fragment.tensors[kind].narrow(0, low - fragment.start, high - low)))
    return found


def _writers(wanted: dict[str, list[Hit]]) -> set[int]:
    return {writer_of(name) for name in wanted}


def _slices_of(state: EngineState, fragment: Fragment) -> list[tuple[str, int, int]]:
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


def _common(fragment: Fragment, start: int, numel: int) -> tuple[int, int]:
    """The elements of the parameter that a fragment and a stored slice share."""
    return max(start, fragment.start), min(start + numel, fragment.start + fragment.numel)


def _copy_part(source: Source, name: str, span: Span, goals: Sequence[Target]) -> None:
    held = source.part(name, span)
    for goal in goals:
        low, high = max(goal.begin, span.begin), min(goal.end, span.end)
        if low < high:
            offset, count = low - span.begin, (high - low) // FLOAT_BYTES
            stored = torch.frombuffer(held, dtype=torch.float32, count=count, offset=offset)
            goal.tensor.narrow(0, (low - goal.begin) // FLOAT_BYTES, count).copy_(stored)


def _copy_whole(data: bytes, hits: Sequence[Hit], kinds: Sequence[str]) -> None:
    """The same from an object without blocks."""
    stored = parse_safetensors(data)
    for fragment, start, numel in hits:
        low, high = _common(fragment, start, numel)
        for kind in kinds:
            found = stored[tensor_key(kind, start, fragment.name)].narrow(0, low - start, high - low)
            fragment.tensors[kind].narrow(0, low - fragment.start, high - low).copy_(found)
