"""Weights that outlive a run: a folder that the runs of a node share, so that each object is fetched once.

An object is one file, named by a hash of its address, its size, and the version and checksum that the store says it
has. A run asks the store for those with its own credentials, so that only who may read an object finds it here, and the
checksum is compared before use. CRC64NVME finds what a disk or a crash has damaged. It does not keep away somebody who
may write to the folder and means harm, so runs that do not trust each other need folders of their own.

Beside the file `<name>` lie `<name>.use`, locked (flock) as shared by each process that uses it and exclusively by who
removes it; `<name>.fill`, locked by who fetches it; `<name>.partial`, what of it has come; and `<name>.crc`, the
checksum of what came, for stores that keep none.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from finetune_trainer.errors import StorageError
from finetune_trainer.model.mirror import PARALLEL_OBJECTS, Counter, name_of, read
from finetune_trainer.store import ObjectInfo, ObjectStore, crc64_hex, crc64nvme

logger = logging.getLogger(__name__)

CACHE_DIR, CACHE_BYTES = "FINETUNE_CACHE_DIR", "FINETUNE_CACHE_BYTES"
VERIFIED = ".verified.json"
VERIFIED_SECONDS = 3600
"""For so long what one rank has verified need not be by the others of its node."""

PIECE_BYTES = 16 * 2**20
POLL_SECONDS = 0.5

_used: dict[Path, IO[str]] = {}
"""Locks on what this process uses, until it ends: the weights are read again for a merged export."""


class NoRoom(OSError):
    """What is in use leaves no room."""


@dataclass(frozen=True)
class Entry:
    """One object in the cache; `crc` is the store's, None if it keeps none."""

    path: Path
    size: int
    crc: int | None

    def beside(self, kind: str) -> Path:
        """One of the files beside it."""
        return self.path.with_name(f"{self.path.name}.{kind}")

    def good(self) -> bool:
        """Whether all of it is here and undamaged."""
        try:
            whole = self.path.stat().st_size == self.size
            expected = self.beside("crc").read_text() if self.crc is None else crc64_hex(self.crc)
        except FileNotFoundError:
            return False
        if whole and checksum_of(self.path) == expected:
            return True
        logger.warning("%s is damaged and fetched again", self.path)
        return False

    def state(self) -> list[int]:
        """What changes when anybody writes to the file."""
        status = self.path.stat()
        return [status.st_ino, status.st_ctime_ns, status.st_size]


class NodeCache:
    """Files below `folder`, of at most `limit` bytes together (None: no limit); no folder caches nothing."""

    def __init__(self, folder: Path | None, limit: int | None) -> None:
        self._folder = folder
        self._limit = limit

    def link(
        self, store: ObjectStore, objects: Sequence[ObjectInfo], folder: Path, counter: Counter
    ) -> list[ObjectInfo]:
        """Link `objects` into `folder` under their last names, fetched if they are not here; the caller has its lock.

        Returns what the cache cannot hold, because it is full or cannot be written. Raises StorageError when the store
        fails, or does not let these credentials read an object.
        """
        if self._folder is None:
            return list(objects)
        known = _read(folder / VERIFIED)
        with ThreadPoolExecutor(PARALLEL_OBJECTS) as pool:
            entries = list(pool.map(lambda info: self._entry(store, info, known, counter), objects))
        for info, entry in zip(objects, entries, strict=True):
            if entry is not None:
                _link(folder / name_of(info), entry.path)
        _write(folder / VERIFIED, known)
        return [info for info, entry in zip(objects, entries, strict=True) if entry is None]

    def _entry(
        self, store: ObjectStore, info: ObjectInfo, known: dict[str, list[int]], counter: Counter
    ) -> Entry | None:
        assert self._folder is not None
        crc = store.checksum(info.key)
        facts = json.dumps([store.uri, info.key, info.size, info.version, crc])
        entry = Entry(self._folder / f"{hashlib.sha256(facts.encode()).hexdigest()[:40]}-{info.size}", info.size, crc)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._use(entry)
            if not _verified(entry, known):
                self._bring(entry, store, info, counter)
                known[entry.path.name] = [int(time.time()), *entry.state()]
            counter.add(info.size)
        except OSError as error:
            where = f"{CACHE_DIR} ({self._folder})"
            logger.warning(
                "%s cannot keep %s/%s, which this run fetches for itself: %s", where, store.uri, info.key, error
            )
            self._let_go(entry)
            return None
        return entry

    def _use(self, entry: Entry) -> None:
        """Keep the entry from being removed while this process lives."""
        if entry.path not in _used:
            file = entry.beside("use").open("a")
            fcntl.flock(file, fcntl.LOCK_SH)
            _used[entry.path] = file
        os.utime(entry.beside("use"))

    def _let_go(self, entry: Entry) -> None:
        if entry.path in _used:
            _used.pop(entry.path).close()

    def _bring(self, entry: Entry, store: ObjectStore, info: ObjectInfo, counter: Counter) -> None:
        if entry.good():
            return
        with _filling(entry, counter):
            if entry.good():  # who held the lock has brought it
                return
            try:
                self._make_room(entry)
                _fetch(entry, store, info, counter)
            except OSError:
                entry.beside("partial").unlink(missing_ok=True)
                raise

    def _make_room(self, wanted: Entry) -> None:
        """Remove what nobody uses, the least recently used first; from then on `wanted` counts with its whole size."""
        assert self._folder is not None
        limit = wanted.size if self._limit is None else self._limit
        with _locked(self._folder / "lock"):
            others = [name for name in self._names_by_use() if name != wanted.path.name]
            over = 0 if self._limit is None else sum(map(_size_of, others)) + wanted.size - limit
            for name in others if wanted.size <= limit else []:
                if over > 0 and _remove(self._folder / name):
                    over -= _size_of(name)
            if over > 0:
                raise NoRoom(f"{over} bytes more than {CACHE_BYTES} ({limit}) allows are wanted or in use")
            wanted.beside("partial").touch()

    def _names_by_use(self) -> list[str]:
        """The entries that are here, whole or in part, the least recently used first."""
        assert self._folder is not None
        found = {path.name: path for path in self._folder.iterdir()}
        names = [name.removesuffix(".use") for name in found if name.endswith(".use")]
        here = [name for name in names if name in found or f"{name}.partial" in found]
        return sorted(here, key=lambda name: found[f"{name}.use"].stat().st_mtime_ns)


def node_cache(environ: Mapping[str, str]) -> NodeCache:
    """The cache that FINETUNE_CACHE_DIR and FINETUNE_CACHE_BYTES name; without the first, one that keeps nothing."""
    folder, limit = environ.get(CACHE_DIR), environ.get(CACHE_BYTES)
    return NodeCache(Path(folder) if folder else None, int(limit) if limit else None)


def checksum_of(path: Path) -> str:
    """CRC64NVME of a file, as 16 hexadecimal digits."""
    crc, piece = 0, bytearray(PIECE_BYTES)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(piece):
            crc = crc64nvme(memoryview(piece)[:count], crc)
    return crc64_hex(crc)


def _fetch(entry: Entry, store: ObjectStore, info: ObjectInfo, counter: Counter) -> None:
    partial = entry.beside("partial")
    read(store, info, partial, counter)
    counter.add(-info.size)  # counted by the caller, as what was here already is
    came = checksum_of(partial)
    if entry.crc is not None and came != crc64_hex(entry.crc):
        partial.unlink()
        raise StorageError(
            f"{store.uri}/{info.key} arrived damaged: run it again; if it comes back, suspect the network"
        )
    entry.beside("crc").write_text(came)
    partial.replace(entry.path)


def _verified(entry: Entry, known: Mapping[str, list[int]]) -> bool:
    at, *state = known.get(entry.path.name, [0])
    try:
        return time.time() - at < VERIFIED_SECONDS and state == entry.state()
    except FileNotFoundError:
        return False


def _remove(path: Path) -> bool:
    """Remove an entry that nobody uses."""
    with path.with_name(f"{path.name}.use").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        for one in (path, path.with_name(f"{path.name}.partial"), path.with_name(f"{path.name}.crc")):
            one.unlink(missing_ok=True)
    return True


def _size_of(name: str) -> int:
    return int(name.rpartition("-")[2])


def _link(link: Path, target: Path) -> None:
    half = link.with_name(f".{link.name}.link")
    half.unlink(missing_ok=True)
    half.symlink_to(target)
    half.replace(link)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _filling(entry: Entry, counter: Counter) -> Iterator[None]:
    """Be the one who fetches; while another process does, its progress counts as ours."""
    told = 0
    with entry.beside("fill").open("a") as file:
        while not _try_lock(file):
            with suppress(FileNotFoundError):
                here = entry.beside("partial").stat().st_size
                counter.add(here - told)
                told = here
            counter.tell()
            time.sleep(POLL_SECONDS)
        counter.add(-told)
        yield


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: Path) -> dict[str, list[int]]:
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _write(path: Path, known: Mapping[str, list[int]]) -> None:
    half = path.with_name(f"{path.name}.new")
    half.write_text(json.dumps(known))
    half.replace(path)
