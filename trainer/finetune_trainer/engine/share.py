"""A rank's share of the training state on its way out: which objects it is written as, and every byte of them.

Objects are safetensors files (no pickle) with keys `<kind>|<start>|<parameter>`. Their layout is known before a tensor
is copied, so that the state is copied once, straight to where it is stored from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import save as to_safetensors

from finetune_trainer.engine.blocks import FLOAT_BYTES, ObjectBlocks, measured
from finetune_trainer.engine.fragments import KINDS, Fragment, fragments, optimizer_step_count
from finetune_trainer.engine.random_numbers import random_state
from finetune_trainer.engine.snapshot import RankSlices, blocks_name, rng_name, state_name, tensor_key

SHARD_ELEMENTS = 16 * 2**20  # parameters per object: 192 MiB with master weights and two moments, a single PUT each
ALIGNMENT = 8  # bytes; what safetensors pads its header to


@dataclass(frozen=True)
class Piece:
    """A slice on its way into an object: flat views of the live state by kind, each of `numel` elements."""

    name: str
    shape: tuple[int, ...]
    start: int
    tensors: dict[str, torch.Tensor]

    @property
    def numel(self) -> int:
        """Elements of each of its tensors."""
        return self.tensors["master"].numel()


@dataclass(frozen=True)
class TensorObject:
    """An object of `size` bytes: a safetensors header, then the pieces' tensors in float32, one behind the other."""

    name: str
    pieces: tuple[Piece, ...]
    header: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "header", _header(self.pieces))

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.header) + sum(FLOAT_BYTES * piece.numel * len(KINDS) for piece in self.pieces)

    def fill(self, buffer: memoryview) -> None:
        """Copy the live state into `buffer`, of `size` bytes; on a GPU the copies may still run on its stream."""
        buffer[: len(self.header)] = self.header
        offset = len(self.header)
        for piece in self.pieces:
            for tensor in (piece.tensors[kind] for kind in KINDS):
                target = torch.frombuffer(buffer, dtype=torch.float32, count=piece.numel, offset=offset)
                target.copy_(tensor.detach(), non_blocking=True)
                offset += FLOAT_BYTES * piece.numel

    def measure(self, buffer: memoryview) -> tuple[ObjectBlocks, int]:
        """The blocks of what `fill` has copied into `buffer`, and the CRC64NVME of the whole."""
        return measured(buffer, len(self.header), tuple((one.name, one.start, one.numel) for one in self.pieces))


@dataclass(frozen=True)
class Share:
    """What one rank writes of a checkpoint, at one moment; valid until the optimizer's next update.

    `small` are objects whose bytes are known already; `ready` is that moment on the GPU `device`, None on a CPU.
    """

    objects: tuple[TensorObject, ...]
    small: dict[str, bytes]
    slices: RankSlices
    zero_stage: int
    optimizer_steps: int
    device: torch.device
    ready: torch.cuda.Event | None


def capture(engine: Any, rank: int, world_size: int) -> Share:
    """This rank's share of the engine's state as it is now: views and places; only the generators' state is copied."""
    slices, objects = RankSlices({}, rng_name(rank), blocks_name(rank)), []
    owned = (fragment for fragment in fragments(engine, rank, world_size) if fragment.owned)
    for number, shard in enumerate(shards(owned)):
        name = state_name(rank, number)
        objects.append(TensorObject(name, tuple(shard)))
        for piece in shard:
            slices.add(piece.name, piece.shape, (name, piece.start, piece.numel))
    # With an offloaded optimizer all of it lies on the CPU.
    devices = {piece.tensors["master"].device for one in objects for piece in one.pieces}
    device = next((one for one in devices if one.type == "cuda"), torch.device("cpu"))
    return Share(
        objects=tuple(objects),
        small={slices.rng: to_safetensors(random_state())},
        slices=slices,
        zero_stage=engine.zero_optimization_stage(),
        optimizer_steps=optimizer_step_count(engine),
        device=device,
        ready=torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None,
    )


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


def _header(pieces: Iterable[Piece]) -> bytes:
    """The header of a safetensors file: its length in 8 little-endian bytes, then JSON padded with spaces."""
    offset, entries = 0, {}
    for piece in pieces:
        for kind in KINDS:
            end = offset + FLOAT_BYTES * piece.numel
            entries[tensor_key(kind, piece.start, piece.name)] = {
                "dtype": "F32",
                "shape": [piece.numel],
                "data_offsets": [offset, end],
            }
            offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
