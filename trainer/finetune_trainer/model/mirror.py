"""Copy objects of a store into a local folder: resumed where it stopped, and complete or not there.

An object is written to `.<name>.<version>.partial` and renamed when it has its full size; what was complete is recorded
in `.objects.json` with its version, so that the next run, or the next rank on this node, reads nothing twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from finetune_trainer.errors import StorageError
from finetune_trainer.store import ObjectInfo, ObjectStore

RECORD = ".objects.json"
CHUNK_BYTES = 32 * 1024 * 1024  # one ranged read; a resume repeats at most this much
PARALLEL_OBJECTS = 4

Progress = Callable[[int, int], None]  # (bytes here so far, bytes in all)


def mirror(store: ObjectStore, objects: Iterable[ObjectInfo], folder: Path, counter: Counter | None = None) -> None:
    """Bring `objects` into `folder` under their last names; the caller holds the folder's lock.

    Raises StorageError when an object changes or ends early while it is read; what has arrived is kept for the
    next try.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = _read_record(folder)
    wanted = list(objects)
    missing = [info for info in wanted if not _is_complete(folder, info, record)]
    counter = counter or Counter(0, None)
    counter.add(sum(info.size for info in wanted) - sum(info.size for info in missing))
    with ThreadPoolExecutor(PARALLEL_OBJECTS) as pool:
        copies = [pool.submit(_copy, store, info, folder, counter) for info in missing]
        for info, copy in zip(missing, copies, strict=True):
            copy.result()
            record[name_of(info)] = info.version
            _write_record(folder, record)


def prune(folder: Path, keys: Iterable[str]) -> None:
    """Remove what an earlier version of the source had and this one, with `keys`, has no longer."""
    names = {key.rpartition("/")[2] for key in keys}
    linked = {path.name for path in folder.iterdir() if path.is_symlink()}
    for name in (_read_record(folder).keys() | linked) - names:
        (folder / name).unlink(missing_ok=True)


def name_of(info: ObjectInfo) -> str:
    """Its name in the folder."""
    return info.key.rpartition("/")[2]


def _is_complete(folder: Path, info: ObjectInfo, record: dict[str, str]) -> bool:
    path = folder / name_of(info)
    whole = path.exists() and not path.is_symlink() and path.stat().st_size == info.size
    return whole and record.get(name_of(info)) == info.version


def _copy(store: ObjectStore, info: ObjectInfo, folder: Path, counter: Counter) -> None:
    version = hashlib.sha256(info.version.encode()).hexdigest()[:12]
    partial = folder / f".{name_of(info)}.{version}.partial"
    read(store, info, partial, counter)
    partial.replace(folder / name_of(info))


def read(store: ObjectStore, info: ObjectInfo, partial: Path, counter: Counter) -> None:
    """Bring the rest of an object into `partial`, which may hold its beginning; raises StorageError like `mirror`."""
    with partial.open("ab") as file:
        arrived = min(file.tell(), info.size)
        file.truncate(arrived)
        counter.add(arrived)
        while arrived < info.size:
            data = store.get(info.key, arrived, min(CHUNK_BYTES, info.size - arrived))
            if not data:
                raise StorageError(f"{store.uri}/{info.key} ended at {arrived} of {info.size} bytes: it was replaced")
            file.write(data)
            arrived += len(data)
            counter.add(len(data))
        file.flush()
        os.fsync(file.fileno())
    if store.head(info.key).version != info.version:
        partial.unlink()
        raise StorageError(f"{store.uri}/{info.key} changed while it was read: start again when its upload is over")


def _read_record(folder: Path) -> dict[str, str]:
    path = folder / RECORD
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _write_record(folder: Path, record: dict[str, str]) -> None:
    temporary = folder / f"{RECORD}.new"
    temporary.write_text(json.dumps(record))
    temporary.replace(folder / RECORD)


class Counter:
    """Bytes so far of `total`, reported as they come from several threads."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._here = 0
        self._progress = progress
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Count bytes that are here now; a negative number takes some back."""
        with self._lock:
            self._here += count
            if self._progress is not None and count:
                self._progress(min(self._here, self._total), self._total)

    def tell(self) -> None:
        """Report how far it is, though nothing has come."""
        with self._lock:
            if self._progress is not None:
                self._progress(self._here, self._total)
