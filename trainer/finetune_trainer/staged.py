"""What a rank left in its node's memory: a copy of its share of a checkpoint, and a note that says what the copy holds.

The note is written once the copy is whole, and taken away before the next one overwrites it. So whoever finds a note
after a crash finds a state that a store may never have got.
"""

from __future__ import annotations

import mmap
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, ValidationError

from finetune_trainer.engine.snapshot import RankSlices
from finetune_trainer.model.fingerprint import ModelIdentity
from finetune_trainer.state import Progress
from finetune_trainer.store import ObjectRef
from finetune_trainer.store.checksums import crc64_hex, crc64nvme

if TYPE_CHECKING:
    from typing_extensions import Buffer

ARENA, NOTE = "arena", "staged.json"


class Draft(BaseModel):
    """What a checkpoint's log entry will say beside the places of its tensors: known when the state is captured.

    `origin` is the writer of the log's first entry, which no other log of the same name shares; `parent` the seq of the
    checkpoint that training went on from; the others are those of `commit.Body`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    origin: str
    step: int
    parent: int | None
    zero_stage: int
    optimizer_steps: int
    progress: Progress
    model: ModelIdentity
    dataset: str
    metrics: dict[str, float]
    labels: tuple[str, ...] | None = None


class StagedObject(BaseModel):
    """An object of `size` bytes, from `start` on in the arena, and its CRC64NVME."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    start: Annotated[int, Field(ge=0)]
    size: Annotated[int, Field(ge=0)]
    crc64: str


class Staged(BaseModel):
    """The note. `folder` names the save (the key prefix it was meant for); `draft` is rank 0's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str
    rank: int
    world_size: int
    objects: tuple[StagedObject, ...]
    small: dict[str, Base64Bytes]
    slices: RankSlices
    draft: Draft | None


@dataclass(frozen=True)
class StagedShare:
    """A note and the folder it was found in."""

    note: Staged
    place: Path

    def contents(self) -> dict[str, Buffer] | None:
        """Every object by name, checked; None when the copy is not what the note says."""
        with (self.place / ARENA).open("rb") as file:
            arena = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        parts: dict[str, Buffer] = dict(self.note.small)
        for one in self.note.objects:
            view = arena[one.start : one.start + one.size]
            if _crc(view) != one.crc64:
                return None
            parts[one.name] = view
        return parts

    def read(self, ref: ObjectRef, begin: int, end: int) -> bytes | None:
        """The bytes [begin, end) of the object that `ref` names, unchecked, if this share holds it."""
        small = self.note.small.get(ref.name)
        if small is not None:
            return small[begin:end] if _crc(small) == ref.crc64 else None
        if (one := self._staged(ref)) is None:
            return None
        with (self.place / ARENA).open("rb") as file:
            file.seek(one.start + begin)
            return file.read(end - begin)

    def holds(self, ref: ObjectRef) -> bool:
        """Whether its note names the object that `ref` names."""
        small = self.note.small.get(ref.name)
        return self._staged(ref) is not None if small is None else _crc(small) == ref.crc64

    def _staged(self, ref: ObjectRef) -> StagedObject | None:
        wanted = (ref.name, ref.size, ref.crc64)
        return next((one for one in self.note.objects if (one.name, one.size, one.crc64) == wanted), None)


def write_note(place: Path, note: Staged) -> None:
    """Say that the arena in `place` is whole, all at once."""
    draft = place / f"{NOTE}.new"
    draft.write_text(note.model_dump_json(), encoding="utf-8")
    draft.rename(place / NOTE)


def remove_note(place: Path) -> None:
    """Say that it is not, or not any more."""
    (place / NOTE).unlink(missing_ok=True)


def find_staged(staging: Path | None) -> list[StagedShare]:
    """The shares that earlier starts of a run left on this node; notes that cannot be read are passed over.

    So is what another user of the machine has put there.
    """
    if staging is None or not staging.is_dir():
        return []
    own = (path for path in sorted(staging.glob(f"*/{NOTE}")) if path.parent.stat().st_uid == os.getuid())
    return [share for path in own if (share := _read(path)) is not None]


def forget_staged(staging: Path | None) -> None:
    """Free the memory of all of them."""
    if staging is not None:
        shutil.rmtree(staging, ignore_errors=True)


def newest_whole(notes: Iterable[Staged], parent: int | None) -> str | None:
    """The save to take up: of those whose every rank's share was found, the one that goes on from `parent`, the newest.

    `parent` is the seq of the run's newest good checkpoint. A state that goes on from an older one is not of this line
    of the run any more, and one that was committed goes on from the one before.
    """
    saves: dict[str, dict[int, Staged]] = {}
    for note in notes:
        saves.setdefault(note.folder, {})[note.rank] = note
    whole = {
        folder: ranks[0].draft
        for folder, ranks in saves.items()
        if 0 in ranks and set(ranks) == set(range(ranks[0].world_size))
    }
    steps = {folder: draft.step for folder, draft in whole.items() if draft is not None and draft.parent == parent}
    return max(steps, key=lambda folder: steps[folder], default=None)


def _read(path: Path) -> StagedShare | None:
    try:
        note = Staged.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None  # cut short by the crash, or of another version
    return StagedShare(note, path.parent) if (path.parent / ARENA).is_file() else None


def _crc(data: Buffer) -> str:
    return crc64_hex(crc64nvme(data))
