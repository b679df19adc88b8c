"""Which bytes of an object are checked together, so that a part of it can be read and is verified all the same.

A block is at most `BLOCK_BYTES` of one tensor and begins anew with each: what a rank needs of a tensor that was saved
under another partitioning then lies in few bytes more than it has. A read of adjoining blocks is checked as a whole,
since the CRC64NVME of what is joined follows from those of its parts.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field

from finetune_trainer.engine.fragments import KINDS
from finetune_trainer.store.checksums import combined, crc64nvme

BLOCK_BYTES = 256 * 2**10
READ_BYTES = 32 * 2**20  # at most so much in one read: what is held in memory, and what is read again after an error
FLOAT_BYTES = 4
CRC = np.dtype("<u8")


class ObjectBlocks(BaseModel):
    """The tensors of an object, as they follow each other from byte `data` on, and the CRC64NVME of each block.

    A piece is [parameter, first element, elements] and has one tensor of float32 for each of KINDS; `crcs` are 8
    little-endian bytes each.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Annotated[int, Field(ge=0)]
    pieces: tuple[tuple[str, int, int], ...]
    crcs: Base64Bytes

    def tensors(self) -> Iterator[tuple[str, int, str, int, int]]:
        """Parameter, first element, kind, and the bytes [begin, end) of the object that each tensor takes."""
        begin = self.data
        for name, start, numel in self.pieces:
            for kind in KINDS:
                end = begin + FLOAT_BYTES * numel
                yield name, start, kind, begin, end
                begin = end


class RankBlocks(BaseModel):
    """The blocks of all tensor objects that one rank wrote, by the object's name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    objects: dict[str, ObjectBlocks]


@dataclass(frozen=True)
class Span:
    """The bytes [begin, end) of an object, and their CRC64NVME."""

    begin: int
    end: int
    crc64: int


def measured(view: memoryview, data: int, pieces: tuple[tuple[str, int, int], ...]) -> tuple[ObjectBlocks, int]:
    """The blocks of an object whose bytes are `view`, and the CRC64NVME of the whole; each byte is looked at once."""
    plain = ObjectBlocks(data=data, pieces=pieces, crcs=b"")
    whole, crcs = crc64nvme(view[:data]), []
    for _, _, _, begin, end in plain.tensors():
        for low, high in _cut(begin, end):
            crcs.append(crc64nvme(view[low:high]))
            whole = combined(whole, crcs[-1], high - low)
    text = base64.b64encode(np.array(crcs, CRC).tobytes())
    return ObjectBlocks(data=data, pieces=pieces, crcs=text), whole


def needed(blocks: ObjectBlocks, wanted: Iterable[tuple[int, int]]) -> list[Span]:
    """The reads, in order, that bring all bytes of the ranges `wanted`: whole blocks, joined where they adjoin."""
    joined: list[Span] = []
    ranges = sorted(wanted)
    for block in _spans(blocks):
        while ranges and ranges[0][1] <= block.begin:
            ranges.pop(0)
        if not ranges or ranges[0][0] >= block.end:
            continue
        last = joined[-1] if joined else None
        if last is not None and last.end == block.begin and block.end - last.begin <= READ_BYTES:
            crc64 = combined(last.crc64, block.crc64, block.end - block.begin)
            joined[-1] = Span(last.begin, block.end, crc64)
        else:
            joined.append(block)
    return joined


def _spans(blocks: ObjectBlocks) -> Iterator[Span]:
    crcs = iter(np.frombuffer(blocks.crcs, CRC).tolist())
    for _, _, _, begin, end in blocks.tensors():
        for low, high in _cut(begin, end):
            yield Span(low, high, next(crcs))


def _cut(begin: int, end: int) -> Iterator[tuple[int, int]]:
    return ((low, min(low + BLOCK_BYTES, end)) for low in range(begin, end, BLOCK_BYTES))
