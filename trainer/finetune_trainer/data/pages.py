"""Pages that the ranks of a node share: each is fetched from the store once and lies on the node's disk for the others.

Whoever is first locks the page's file, fetches and publishes it; the others wait for that, and read themselves if it
takes too long. The kernel gives up the lock of a process that dies. Pages that `Keeping` chooses stay for the next
epoch and the next start; the others are there only while the ranks go through their block.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Protocol

from finetune_trainer.data.keep import Keeping
from finetune_trainer.data.page_files import lock, publish, read_page, unlock
from finetune_trainer.store import crc64nvme

Fetch = Callable[[], bytes]
Tell = Callable[[str], object]

WAIT_SECONDS = 30.0
"""Longest wait for a page that another process of the node fetches, and is slow with."""
BLOCKS = 8
"""Blocks of a walk whose pages lie ready: a step is made by all ranks together, so that none is further ahead of
another than it reads ahead of itself."""
FOLDERS = 256


@dataclass(frozen=True, slots=True)
class Place:
    """A page: `id` of what it is a page of, a hash that no other content has; its name in that; its size in bytes; and
    its number among the pages that `Keeping` chooses from, or None if it stays only where all of them do."""

    id: str
    name: str
    size: int
    number: int | None

    @property
    def checksum(self) -> int:
        """What the checksum of the content goes on from, so that a page under another's name is found out."""
        return crc64nvme(f"{self.id}/{self.name}/{self.size}".encode())


class Pages(Protocol):
    """How a reader comes by pages."""

    def enter(self, epoch: int, block: int) -> None:
        """Say which block the pages are read for from now on."""
        ...

    def turns(self, pages: int) -> list[int]:
        """In which order this rank had best ask for that many pages of a block."""
        ...

    def shares(self, id: str) -> bool:
        """Whether pages of this are shared at all."""
        ...

    def page(self, place: Place, fetch: Fetch, *, fresh: bool = False) -> bytes:
        """The page, or what `fetch` returns; `fresh`: not a copy from before. Raises what `fetch` raises."""
        ...


class Unshared:
    """Every page is fetched by whoever asks for it."""

    def enter(self, epoch: int, block: int) -> None:
        """Nothing."""

    def turns(self, pages: int) -> list[int]:
        """As they come."""
        return list(range(pages))

    def shares(self, id: str) -> bool:
        """No."""
        return False

    def page(self, place: Place, fetch: Fetch, *, fresh: bool = False) -> bytes:
        """What `fetch` returns."""
        return fetch()


UNSHARED: Pages = Unshared()


class NodeCache:
    """The pages in `folder`, which is on the disk of a node and belongs to one run; rank `rank` of its `ranks` there.

    `tell` is called once, with why, if pages cannot be written: then they are only read. `counts`: pages that were
    `fetched`, `found`, found `damaged` (and fetched again), and fetched `alone`, after a wait for another rank;
    `bytes`: of all that was fetched. Thread-safe.
    """

    def __init__(self, folder: Path, keeping: Keeping, rank: int = 0, ranks: int = 1, tell: Tell = print) -> None:
        self.folder = folder
        self.rank, self.ranks = rank, ranks
        self.counts: Counter[str] = Counter()
        self.keeping = keeping
        self._own = folder / keeping.digest
        self._tell = tell
        self._writing = True
        self._lock = Lock()
        with self._written():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._own.mkdir(exist_ok=True)
            for other in folder.iterdir() if rank == 0 else ():
                if other != self._own:  # chosen under another budget
                    shutil.rmtree(other, ignore_errors=True)

    def reader(self, name: str) -> Pages:
        """The pages for one walk at a time over the data called `name`."""
        return _Walk(self, self._own / "passing" / name)

    def clear(self) -> None:
        """Remove what is there, from rank 0 of the node: nothing is read any more."""
        if self.rank == 0:
            shutil.rmtree(self.folder, ignore_errors=True)

    def get(self, place: Place, passing: Path, fetch: Fetch, *, fresh: bool) -> bytes:
        """The page; one that does not stay is shared in `passing`."""
        path = self._path(place, passing)
        if path is None:
            return self._fetched(fetch)
        if not fresh and (held := self._held(path, place)) is not None:
            return held
        with self._turn(path) as file:
            if not fresh and (held := self._held(path, place)) is not None:  # of who had the turn before
                return held
            if path.exists():
                self._count("damaged")
            data = self._fetched(fetch)
            if file is None:
                self._count("alone")
            elif len(data) == place.size:
                with self._written():
                    publish(file, path, data, crc64nvme(data, place.checksum))
            return data

    def _path(self, place: Place, passing: Path) -> Path | None:
        """Where the page lies; None if nobody would find it there."""
        if place.id not in self.keeping:
            return None
        number, keeping = place.number, self.keeping
        if keeping.keeps_all(place.id) if number is None else keeping.keeps(place.id, number):
            return self._own / "kept" / place.id / f"{(number or 0) % FOLDERS:02x}" / place.name
        return passing / f"{place.id}-{place.name}" if self.ranks > 1 and self._writing else None

    def _held(self, path: Path, place: Place) -> bytes | None:
        """The page as it was published, proved."""
        data = read_page(path, place.size, place.checksum)
        if data is not None:
            self._count("found")
        return data

    @contextmanager
    def _turn(self, path: Path) -> Iterator[int | None]:
        """The locked file in which to write the page; None if it cannot be written, or another process takes too long.

        Others wait for the end of the with block.
        """
        file = None
        if self._writing:
            with self._written():
                file = lock(path, WAIT_SECONDS)
        try:
            yield file
        finally:
            if file is not None:
                unlock(file, path)

    def _fetched(self, fetch: Fetch) -> bytes:
        data = fetch()
        self._count("fetched", size=len(data))
        return data

    def _count(self, what: str, size: int = 0) -> None:
        with self._lock:
            self.counts[what] += 1
            self.counts["bytes"] += size

    @contextmanager
    def _written(self) -> Iterator[None]:
        """Whatever keeps pages from being written ends the writing, never the run."""
        try:
            yield
        except FileNotFoundError:  # a folder that another rank is done with: that page alone is not shared
            return
        except OSError as error:
            with self._lock:
                first, self._writing = self._writing, False
            if first:
                self._tell(
                    f"the data cache in {self.folder} cannot be written ({error.strerror or error}): what is read from "
                    "now on is not kept, and each rank reads for itself; make room, set FINETUNE_DATA_CACHE_BYTES "
                    "to less (0: no cache), or FINETUNE_WORKDIR to a larger disk"
                )


class _Walk:
    """The pages of one walk."""

    def __init__(self, cache: NodeCache, folder: Path) -> None:
        self._cache = cache
        self._folder = folder
        self._entered: list[tuple[int, int]] = []
        self._passing = folder / "0.0"

    def enter(self, epoch: int, block: int) -> None:
        """Remove the pages of blocks that every rank is through with."""
        again = bool(self._entered) and (epoch, block) < self._entered[-1]  # a held-out set is walked over many times
        self._entered = [(epoch, block)] if again else [*self._entered[1 - BLOCKS :], (epoch, block)]
        self._passing = self._folder / f"{epoch}.{block}"
        with suppress(OSError):
            for folder in self._folder.iterdir():
                at, _, number = folder.name.partition(".")
                if (int(at), int(number)) < self._entered[0]:
                    shutil.rmtree(folder, ignore_errors=True)

    def turns(self, pages: int) -> list[int]:
        """First those that no other rank of the node begins with, so that all fetch at the same time."""
        rank, ranks = self._cache.rank, self._cache.ranks
        return sorted(range(pages), key=lambda number: ((number - rank) % ranks, number))

    def shares(self, id: str) -> bool:
        """Whether this lies in S3."""
        return id in self._cache.keeping

    def page(self, place: Place, fetch: Fetch, *, fresh: bool = False) -> bytes:
        """The page, from the node's disk or by `fetch`."""
        return self._cache.get(place, self._passing, fetch, fresh=fresh)
