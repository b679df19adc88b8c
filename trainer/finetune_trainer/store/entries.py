"""What a log entry holds and how it is written: strict, versioned, checksummed JSON.

An entry's file is one JSON object whose last member, `crc64`, is the CRC64NVME of the file's bytes before it, closed by
a brace. So a torn or damaged entry is told from a whole one, and any JSON reader can read it.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel
from pydantic.dataclasses import dataclass
from pydantic_core import from_json

from finetune_trainer.errors import StorageError
from finetune_trainer.store.checksums import crc64_hex, crc64nvme

FORMAT_VERSION = 1
# Room for a million tensor slices; an entry is read whole into memory.
MAX_ENTRY_BYTES = 256 * 2**20
MAX_SEQ = 10**12 - 1
MAX_TEXT = 4096
REMEDY = "restore it from a backup or an older version of the object, or start a new run with another checkpoint.uri"
SEAL = re.compile(rb',"crc64":"([0-9a-f]{16})"\}\n?\Z')
SEAL_BYTES = 64  # more than a seal and its line end take

Seq = Annotated[int, Field(ge=1, le=MAX_SEQ)]
Attempt = Annotated[int, Field(ge=0, le=10**9)]
WriterId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
_STRICT = ConfigDict(
    strict=True, extra="forbid", frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True
)


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class ObjectRef:
    """One stored object: its key below the store's root, its size in bytes, its CRC64NVME as 16 hex digits."""

    key: Annotated[str, Field(min_length=1, max_length=1024)]
    size: Annotated[int, Field(ge=0)]
    crc64: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]

    @property
    def name(self) -> str:
        """The last segment of its key: its name in its folder."""
        return self.key.rpartition("/")[2]


class Identity(BaseModel):
    """What makes two runs the same one: a hash, and the fields it was made of, to explain a difference."""

    model_config = _STRICT

    hash: Annotated[str, Field(min_length=1, max_length=128)]
    fields: dict[str, JsonValue] = {}


class EntryBase(BaseModel):
    """What every entry says: its place in the log, who wrote it and when."""

    model_config = _STRICT

    format_version: Literal[1] = 1
    seq: Seq
    kind: str
    attempt: Attempt
    writer: WriterId
    time: AwareDatetime


class Claim(EntryBase):
    """A writer takes the run over; every earlier writer is fenced from here on."""

    kind: Literal["claim"] = "claim"
    identity: Identity
    info: dict[str, JsonValue] = {}


class Checkpoint(EntryBase):
    """The commit of a checkpoint: every object of it, and what the trainer needs to read them (`body`).

    `parent` is the seq of the checkpoint that training went on from, None for a fresh start; `identity` the run's hash.
    """

    kind: Literal["checkpoint"] = "checkpoint"
    step: Annotated[int, Field(ge=0)]
    parent: Seq | None
    identity: str
    objects: tuple[ObjectRef, ...]
    body: dict[str, JsonValue]

    def metric(self, name: str) -> float | None:
        """The number `body["metrics"][name]`, or None if there is none."""
        metrics = self.body.get("metrics")
        value = metrics.get(name) if isinstance(metrics, dict) else None
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


class Quarantine(EntryBase):
    """The checkpoint `target` was found damaged and is never loaded again; its step may be committed again."""

    kind: Literal["quarantine"] = "quarantine"
    target: Seq
    reason: Text


class Pin(EntryBase):
    """The checkpoint `target` is kept for ever (`pinned`), or no longer."""

    kind: Literal["pin"] = "pin"
    target: Seq
    pinned: bool = True


class Retire(EntryBase):
    """The checkpoints `targets` are given up: from here on their objects may be gone.

    The rest is what still holds behind this entry, so that no reader needs the entries before it: `live` are the
    checkpoints that are not retired, of which some are `quarantined` or `pinned`.
    """

    kind: Literal["retire"] = "retire"
    targets: tuple[Seq, ...]
    live: tuple[Seq, ...]
    quarantined: tuple[Seq, ...]
    pinned: tuple[Seq, ...]


Entry = Claim | Checkpoint | Quarantine | Pin | Retire
_ENTRY: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="kind")])


def timestamp(seconds: float) -> datetime:
    """Unix time as an entry's `time`."""
    return datetime.fromtimestamp(seconds, UTC)


def encode(entry: Entry) -> bytes:
    """The entry's file. ValueError for a number that JSON does not have; StorageError above MAX_ENTRY_BYTES."""
    fields = entry.model_dump(mode="python", by_alias=True) | {"time": entry.time.isoformat()}
    text = json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    body = text.encode("utf-8")[:-1]
    data = body + f',"crc64":"{crc64_hex(crc64nvme(body))}"}}\n'.encode("ascii")
    if len(data) > MAX_ENTRY_BYTES:
        raise StorageError(f"the log entry {entry.seq} has {len(data)} bytes, the limit is {MAX_ENTRY_BYTES}")
    return data


def is_sealed(data: bytes) -> bool:
    """Whether an entry's file ends with the checksum of what is before it."""
    seal = _seal(data)
    return seal is not None and seal[1].decode("ascii") == crc64_hex(crc64nvme(data[: seal.start()]))


def _seal(data: bytes) -> re.Match[bytes] | None:
    return SEAL.search(data, max(0, len(data) - SEAL_BYTES))


def decode(data: bytes, name: str) -> Entry:
    """The entry in the file `name`; StorageError naming it, for a torn, damaged, foreign or newer one."""
    if len(data) > MAX_ENTRY_BYTES:
        raise StorageError(f"{name} is larger than {MAX_ENTRY_BYTES} bytes and no log entry: {REMEDY}")
    seal = _seal(data)
    if seal is None:
        raise _newer(data, name) or _invalid(
            name, f"it is cut off or damaged: its {len(data)} bytes end with no checksum"
        )
    found, written = crc64_hex(crc64nvme(data[: seal.start()])), seal[1].decode("ascii")
    if found != written:
        raise _invalid(name, f"it is cut off or damaged: its CRC64NVME is {found}, not {written}")
    try:
        return _ENTRY.validate_json(data[: seal.start()] + b"}")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise _newer(data, name) or _invalid(name, problem) from error


def _invalid(name: str, problem: str) -> StorageError:
    return StorageError(f"{name} is no valid log entry ({problem}): {REMEDY}")


def _newer(data: bytes, name: str) -> StorageError | None:
    version = _version(data)
    if not isinstance(version, int) or version <= FORMAT_VERSION:
        return None
    return StorageError(
        f"{name} has format version {version}, this is a trainer for version {FORMAT_VERSION}: use the newer "
        "finetune-operator that wrote it"
    )


def _version(data: bytes) -> Any:
    try:
        return from_json(data)["formatVersion"]
    except (ValueError, KeyError, TypeError):
        return None
