"""A rank's share of a checkpoint on its way to the store: copied beside training, noted, written in parallel."""

from __future__ import annotations

import base64
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_trainer.engine.blocks import ObjectBlocks, RankBlocks
from finetune_trainer.engine.share import Share
from finetune_trainer.engine.snapshot import RankSlices
from finetune_trainer.engine.staging import Arena, in_turns, places, stage
from finetune_trainer.staged import Draft, Staged, StagedObject, StagedShare, remove_note, write_note
from finetune_trainer.store import ObjectRef, Writer
from finetune_trainer.store.checksums import crc64_hex

if TYPE_CHECKING:
    from typing_extensions import Buffer

UPLOADS = 4
"""Objects that a rank writes at once; one connection to S3 carries about 100 MB/s (AWS' performance guidelines)."""


@dataclass(frozen=True)
class StoredShare:
    """What one rank wrote, and whether training could go on meanwhile (`copied`)."""

    refs: list[ObjectRef]
    slices: RankSlices
    copied: bool


class Stage:
    """Where a rank's shares are copied to before they are stored, for all saves of a start.

    `place` is a folder of this start's own on a file system in memory, None for the process's own memory;
    `ranks_here` ranks of the node do the same.
    """

    def __init__(self, place: Path | None, rank: int, world_size: int, ranks_here: int) -> None:
        self._place = place
        self._rank, self._world_size, self._ranks_here = rank, world_size, ranks_here
        self._arena = Arena(None if place is None else place / "arena")

    def store(
        self,
        writer: Writer,
        prefix: str,
        share: Share,
        more: dict[str, bytes],
        draft: Draft,
        copied: threading.Event,
    ) -> StoredShare:
        """Write this rank's share, and the objects `more`; sets `copied` once the state itself is not needed any more.

        Where its copy does not fit into memory, that is when all is written.
        """
        small = share.small | more
        if not self._reserve(share):
            return _store_in_turns(writer, prefix, share, small, copied)
        views = stage(share, self._arena)
        copied.set()
        measures = {one.name: one.measure(view) for one, view in zip(share.objects, views, strict=True)}
        checksums = {name: whole for name, (_, whole) in measures.items()}
        small |= _blocks(share, measures)
        if self._place is not None and self._arena.is_file:
            write_note(self._place, self._note(prefix, share, small, draft, checksums))
        objects: dict[str, Buffer] = {one.name: view for one, view in zip(share.objects, views, strict=True)}
        return StoredShare(write_all(writer, prefix, objects | small, checksums), share.slices, copied=True)

    def release(self) -> None:
        """Give the memory back."""
        if self._place is not None:
            remove_note(self._place)
        self._arena.release()

    def _reserve(self, share: Share) -> bool:
        """Make room for a copy, over the one before."""
        if self._place is not None:
            remove_note(self._place)
        return self._arena.reserve(share, self._ranks_here)

    def _note(
        self, prefix: str, share: Share, small: dict[str, bytes], draft: Draft, checksums: dict[str, int]
    ) -> Staged:
        objects = (
            StagedObject(name=one.name, start=start, size=one.size, crc64=crc64_hex(checksums[one.name]))
            for one, start in zip(share.objects, places(share), strict=False)
        )
        return Staged(
            folder=prefix,
            rank=self._rank,
            world_size=self._world_size,
            objects=tuple(objects),
            small={name: base64.b64encode(data) for name, data in small.items()},
            slices=share.slices,
            draft=draft if self._rank == 0 else None,
        )


def _store_in_turns(
    writer: Writer, prefix: str, share: Share, small: dict[str, bytes], copied: threading.Event
) -> StoredShare:
    """Write one object after the other, each copied alone."""
    refs, measures = [], {}
    for one, view in zip(share.objects, in_turns(share), strict=True):
        measures[one.name] = one.measure(view)
        refs.append(writer.write(prefix, one.name, view, measures[one.name][1]))
    copied.set()
    return StoredShare(refs + write_all(writer, prefix, small | _blocks(share, measures)), share.slices, copied=False)


def _blocks(share: Share, measures: dict[str, tuple[ObjectBlocks, int]]) -> dict[str, bytes]:
    """The object that says of every tensor object what its blocks are."""
    found = RankBlocks(objects={name: blocks for name, (blocks, _) in measures.items()})
    return {share.slices.blocks: found.model_dump_json().encode()}


def store_again(writer: Writer, prefix: str, share: StagedShare) -> StoredShare | None:
    """Write what an earlier start left in memory; None when it is not whole."""
    contents = share.contents()
    if contents is None:
        return None
    return StoredShare(write_all(writer, prefix, contents), share.note.slices, copied=True)


def write_all(
    writer: Writer, prefix: str, objects: dict[str, Buffer] | dict[str, bytes], checksums: dict[str, int] | None = None
) -> list[ObjectRef]:
    """Store objects, several at once; `checksums` are those CRC64NVME that are known already."""
    known = checksums or {}

    def write(name: str) -> ObjectRef:
        return writer.write(prefix, name, objects[name], known.get(name))

    with ThreadPoolExecutor(UPLOADS, thread_name_prefix="save") as pool:
        return list(pool.map(write, objects))
