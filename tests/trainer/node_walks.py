"""Ranks of one node that walk over the same data in step, each with a cache object of its own on the same folder."""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Barrier
from typing import Any

from finetune_trainer.data import (
    DatasetIndex,
    DataSettings,
    DataState,
    Keeping,
    NodeCache,
    TokenForm,
    TrainStream,
    used_pages,
)
from finetune_trainer.data.keep import Used
from finetune_trainer.data.pages import Fetch, Pages, Place, Unshared
from s3_faults.requests import Operation
from s3_faults.server import FaultyS3
from small_data import make_tokenizer

Batches = list[list[tuple[Any, ...]]]
"""What one rank got: for each batch, its rows as plain values."""


@dataclass(frozen=True)
class Node:
    """Data, and the folder of a node; `budget` in bytes."""

    index: DatasetIndex
    forms: Mapping[int, TokenForm]
    settings: DataSettings
    folder: Path
    budget: int

    @property
    def used(self) -> list[Used]:
        return list(used_pages(self.index, self.forms))

    @property
    def size(self) -> int:
        """Bytes of all that is read by pages."""
        return sum(one.size for one in self.used)

    def with_budget(self, budget: int) -> Node:
        return replace(self, budget=budget)

    def cache(self, rank: int = 0, ranks: int = 1, said: list[str] | None = None) -> NodeCache:
        said = [] if said is None else said
        return NodeCache(self.folder, Keeping(self.used, self.budget), rank, ranks, said.append)

    def stream(self, pages: Pages, rank: int = 0, ranks: int = 1) -> TrainStream:
        return TrainStream(self.index, self.settings, make_tokenizer(), rank, ranks, forms=self.forms, pages=pages)

    def walk(self, ranks: int = 4, state: DataState | None = None) -> tuple[list[Batches], Counter[str], list[str]]:
        """Let the ranks go through all batches, a step together as training does; what each got, counts, messages."""
        said: list[str] = []
        caches = [self.cache(rank, ranks, said) for rank in range(ranks)]
        step = Barrier(ranks)

        def go(rank: int) -> Batches:
            found = []
            with closing(self.stream(caches[rank].reader("train"), rank, ranks).batches(state)) as batches:
                for batch in batches:
                    found.append([row_values(row) for row in batch.rows])
                    step.wait(60)
            return found

        with ThreadPoolExecutor(ranks) as pool:
            found = list(pool.map(go, range(ranks)))
        return found, sum((cache.counts for cache in caches), Counter()), said

    def expected(self, ranks: int = 4) -> list[Batches]:
        """What each rank gets without a cache."""
        return [
            [[row_values(row) for row in batch.rows] for batch in self.stream(Unshared(), rank, ranks).batches()]
            for rank in range(ranks)
        ]

    def files(self) -> list[Path]:
        """The pages that lie in the folder."""
        return sorted(path for path in self.folder.rglob("*") if path.is_file())


def row_values(row: Any) -> tuple[Any, ...]:
    """A row as values that compare."""
    return row.records, row.input_ids.tolist(), row.labels.tolist(), row.position_ids.tolist()


def bytes_sent(server: FaultyS3, key: str) -> int:
    """Bytes of all ranges that were asked for of the objects whose keys end so."""
    asked = [one.headers["range"] for one in server.seen if one.operation is Operation.GET and one.key.endswith(key)]
    ranges = [re.fullmatch(r"bytes=(\d+)-(\d+)", one) for one in asked]
    return sum(int(one[2]) - int(one[1]) + 1 for one in ranges if one)


class Noted(Unshared):
    """Every page is fetched, and noted."""

    def __init__(self) -> None:
        self.uses: list[tuple[str, int]] = []

    def page(self, place: Place, fetch: Fetch, *, fresh: bool = False) -> bytes:
        if place.number is not None:
            self.uses.append((place.name, place.size))
        return super().page(place, fetch, fresh=fresh)


def least_recently_used(uses: Sequence[tuple[str, int]], budget: int) -> int:
    """Bytes that are fetched in a walk where the page used longest ago gives way."""
    held: OrderedDict[str, int] = OrderedDict()
    fetched = 0
    for name, size in uses:
        if name in held:
            held.move_to_end(name)
            continue
        fetched += size
        held[name] = size
        while sum(held.values()) > budget:
            held.popitem(last=False)
    return fetched


def furthest_first(uses: Sequence[tuple[str, int]], budget: int) -> int:
    """Bytes that are fetched where the page whose next use is furthest gives way, known for the whole walk (Belady)."""
    following: list[int] = [0] * len(uses)
    seen: dict[str, int] = {}
    for at in reversed(range(len(uses))):
        following[at] = seen.get(uses[at][0], len(uses))
        seen[uses[at][0]] = at
    held: dict[str, tuple[int, int]] = {}
    fetched = 0
    for at, (name, size) in enumerate(uses):
        fetched += 0 if name in held else size
        held[name] = (following[at], size)
        while sum(size for _, size in held.values()) > budget:
            del held[max(held, key=lambda one: held[one][0])]
    return fetched
