"""An export in a store: files under a claim, then the manifest that completes it; never over another's files.

<output.uri>/export-in-progress.json   created first: who writes here, and which files
<output.uri>/<files>                   created; those of an export of ours that was cut short are completed
<output.uri>/manifest.json             created last, with every file's size and CRC64NVME; then the claim goes
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from pydantic.alias_generators import to_camel

from finetune_trainer.errors import StorageError
from finetune_trainer.store import (
    ObjectExists,
    ObjectNotFound,
    ObjectRef,
    ObjectStore,
    crc64_hex,
    crc64nvme,
    find_problems,
)

CLAIM = "export-in-progress.json"
MANIFEST = "manifest.json"
M = TypeVar("M", bound=BaseModel)
REMEDY = "write another spec.output.uri, or empty that folder, and run the job again: it exports without training again"
_STRICT = ConfigDict(
    extra="forbid", frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True
)


class OutputTaken(StorageError):
    """`spec.output.uri` holds something that this export must not mix with."""

    reason = "OutputTaken"
    retryable: ClassVar[bool] = False


class Exported(BaseModel):
    """What is exported: the checkpoint `step` of a run, committed as log entry `seq` by `writer`, as `format`."""

    model_config = _STRICT

    run_id: str
    identity: str
    step: int
    seq: int
    writer: str
    format: str

    def __str__(self) -> str:
        return f"step {self.step} of the run {self.run_id} as {self.format} (log entry {self.seq})"


class Claim(BaseModel):
    """Who writes here, and what."""

    model_config = _STRICT

    export: Exported
    files: tuple[str, ...]


class Manifest(BaseModel):
    """A complete export: its files (keys relative to the manifest) and the result that the run returned."""

    model_config = _STRICT

    format_version: int = 1
    export: Exported
    files: tuple[ObjectRef, ...]
    result: dict[str, JsonValue]


def find_manifest(store: ObjectStore, export: Exported) -> Manifest | None:
    """The manifest of exactly this export, None if there is no manifest yet.

    Raises OutputTaken for the manifest of anything else, StorageError if files that it names are gone or cut short.
    """
    found = _read(store, MANIFEST, Manifest)
    if found is None:
        return None
    if found.export != export:
        raise OutputTaken(f"spec.output.uri: {store.uri} holds {found.export}, not {export}; {REMEDY}")
    sizes = {info.key: info.size for info in store.list()}
    wrong = [ref.key for ref in found.files if sizes.get(ref.key) != ref.size]
    if wrong:
        raise StorageError(
            f"spec.output.uri: {store.uri} lacks {', '.join(wrong[:8])} of the export that its {MANIFEST} describes, "
            f"or has it in another size: delete {MANIFEST} and run the job again to write it once more"
        )
    _finish(store, export)
    return found


def check_vacant(store: ObjectStore, run_id: str, identity: str) -> Claim | None:
    """Whether a run may export here: into an empty folder, or where it has exported or begun to; then with its claim.

    Only objects directly in the folder count. Raises OutputTaken naming what lies there; worth asking before training.
    """
    held, done = _read(store, CLAIM, Claim), _read(store, MANIFEST, Manifest)
    for found in (held, done):
        if found is not None and (found.export.run_id, found.export.identity) != (run_id, identity):
            raise OutputTaken(f"spec.output.uri: {store.uri} holds {found.export}, another run's; {REMEDY}")
    strangers = [info.key for info in store.list(recursive=False)]
    if strangers and held is None and done is None:
        raise OutputTaken(f"spec.output.uri: {store.uri} holds files of something else ({strangers[0]}); {REMEDY}")
    return held


def claim(store: ObjectStore, export: Exported, files: Sequence[str]) -> None:
    """Take the folder for this export, or take up where an earlier start of the same run was cut short.

    Raises OutputTaken when another run or another step is there, or files that no export of this run has announced.
    """
    if find_manifest(store, export) is not None:
        raise StorageError(f"spec.output.uri: {store.uri} was completed by another start meanwhile: run the job again")
    announced = _json(Claim(export=export, files=tuple(files)))
    held = check_vacant(store, export.run_id, export.identity)
    if held is None:
        try:
            store.create(CLAIM, announced)
            return
        except ObjectExists:  # somebody was faster
            held = check_vacant(store, export.run_id, export.identity)
    store.delete(set(held.files if held is not None else ()) - set(files))
    store.discard_unfinished("")
    store.put(CLAIM, announced)


def upload(store: ObjectStore, path: Path, key: str) -> ObjectRef:
    """Store a local file under a claimed `key`; one that is there already with the same bytes stays."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            return _upload(store, b"", key)
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return _upload(store, content, key)  # not closed: an error on its way up still has views of it


def seal(store: ObjectStore, manifest: Manifest) -> None:
    """Make the export complete, and let go of the claim."""
    try:
        store.create(MANIFEST, _json(manifest))
    except ObjectExists:
        find_manifest(store, manifest.export)  # raises unless it was an earlier start of ours, whose answer was lost
    _finish(store, manifest.export)


def _upload(store: ObjectStore, content: Any, key: str) -> ObjectRef:
    checksum = crc64nvme(content)
    ref = ObjectRef(key, len(content), crc64_hex(checksum))
    try:
        store.create(key, content, crc64=checksum)
    except ObjectExists:
        if find_problems(store, [ref]):
            store.put(key, content)
    return ref


def _finish(store: ObjectStore, export: Exported) -> None:
    if check_vacant(store, export.run_id, export.identity) is not None:
        store.delete([CLAIM])


def _read(store: ObjectStore, key: str, model: type[M]) -> M | None:
    try:
        return model.model_validate_json(store.get(key))
    except ObjectNotFound:
        return None
    except ValidationError as error:
        raise OutputTaken(f"spec.output.uri: {store.uri}/{key} is of something else ({error}); {REMEDY}") from error


def _json(model: BaseModel) -> bytes:
    return (json.dumps(model.model_dump(mode="json", by_alias=True), indent=2) + "\n").encode()
