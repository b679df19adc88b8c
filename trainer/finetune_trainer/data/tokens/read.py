"""Reads token forms, checked on every read, in threads ahead of who asks.

Forms that fit into memory are read by whole chunk objects, others by one ranged read per page. A request costs a
millisecond of a core, in which 100,000 tokens are made into rows. Pages that are slow to come are asked for twice.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.chunks import Ints
from finetune_trainer.data.columns import Outcomes
from finetune_trainer.data.index import Chunk
from finetune_trainer.data.pages import UNSHARED, Pages, Place
from finetune_trainer.data.tokens.cache import Page, PageCache, PageData
from finetune_trainer.data.tokens.format import (
    PAGE_ENTRY,
    FormIndex,
    decode_directory,
    decode_page,
    page_records,
)
from finetune_trainer.data.tokens.hedge import Hedge
from finetune_trainer.store import READS, CorruptObject, ObjectNotFound, ObjectStore, crc64_hex, crc64nvme

# Ranged reads in flight, as many as the reader of raw records has.
THREADS = 8
CACHE_BYTES = 256 << 20
# Of 2 KB each: all of 4 TB of tokens are 256 MB.
DIRECTORIES = 1 << 13


Fetch = Callable[[], bytes]


@dataclass(frozen=True)
class TokenForm:
    """A published form: its id (32 hex digits of the SHA-256 of its index), the store of its chunks, and its index."""

    id: str
    store: ObjectStore
    index: FormIndex


class TokenReader:
    """Reads pages of any number of forms; `ahead` begins, `take` ends a read. For one thread at a time.

    `forms` are those that are read. Holds at most `budget` bytes of pages that are used again; opening a form reads
    nothing. `pages`: what the node has of them.
    """

    def __init__(self, forms: Iterable[TokenForm], budget: int = CACHE_BYTES, *, pages: Pages = UNSHARED) -> None:
        self._pages = pages
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="data-tokens")
        self._chunk_pool = ThreadPoolExecutor(THREADS, thread_name_prefix="data-chunks")
        self._cache = PageCache(budget)
        self._fits = sum(sum(form.index.sizes) for form in forms) <= budget
        self._chunks: dict[Page, Future[bytes]] = {}
        self._hedge = Hedge()
        self._coming: dict[Page, Future[PageData]] = {}
        self._directories: OrderedDict[tuple[str, int], NDArray[np.uint64]] = OrderedDict()
        self._lock = Lock()

    def close(self) -> None:
        """Wait for the reads that are running and give up the others."""
        self._chunk_pool.shutdown(cancel_futures=True)
        self._pool.shutdown(cancel_futures=True)

    def ahead(self, pages: Iterable[tuple[TokenForm, int, float]]) -> None:
        """Begin to read pages, each with when it will be used next after this (as `Order.next_use`)."""
        wanted = list(pages)
        for form, number, next_use in (wanted[turn] for turn in self._pages.turns(len(wanted))):
            page = (form.id, number)
            if page not in self._coming:
                self._coming[page] = self._pool.submit(self._page, form, number, next_use)

    def take(self, form: TokenForm, number: int, chunk: Chunk, numbers: Ints, name: str) -> Outcomes:
        """What became of the records `numbers` of a page that `ahead` was told of: that of `chunk` of the file `name`.

        CorruptObject names an object that is missing or damaged, or that belongs to other records.
        """
        data = self._coming[form.id, number].result()
        if page_records(data) != chunk.records:
            where, _ = _place(form, number)
            raise _damaged(form, where, f"page {number} holds {page_records(data)} records, not {chunk.records}")
        return decode_page(data, numbers, name, chunk.first)

    def done(self) -> None:
        """Forget the pages that `ahead` was told of."""
        self._coming.clear()

    def _page(self, form: TokenForm, number: int, next_use: float) -> PageData:
        page = (form.id, number)
        data = self._cache.get(page, next_use)
        if data is None:
            data = self._read_page(form, number)
            self._cache.put(page, data, next_use)
        return data

    def _read_page(self, form: TokenForm, number: int) -> PageData:
        chunk, within = _place(form, number)
        before = PAGE_ENTRY * form.index.pages[chunk]
        whole = memoryview(self._chunk(form, chunk)) if self._fits else None
        directory = self._directory(form, chunk) if whole is None else decode_directory(whole[:before])
        start = int(directory[within - 1, 0]) if within else 0
        end, checksum = directory[within].tolist()
        if whole is not None:
            return whole[before + start : before + end]
        place = Place(form.id, f"page-{number}", end - start, number)
        ask = self._hedge.read
        return self._pages.page(
            place, lambda: _read(form, chunk, before + start, end - start, crc64_hex(checksum), ask)
        )

    def _chunk(self, form: TokenForm, chunk: int) -> bytes:
        """A whole chunk object, read once."""
        with self._lock:
            coming = self._chunks.get((form.id, chunk))
            if coming is None:
                size, crc64 = form.index.sizes[chunk], form.index.crc64[chunk]
                read = partial(_read, form, chunk, 0, size, crc64)
                place = Place(form.id, f"chunk-{chunk}", size, None)
                coming = self._chunks[form.id, chunk] = self._chunk_pool.submit(self._pages.page, place, read)
        return coming.result()

    def _directory(self, form: TokenForm, chunk: int) -> NDArray[np.uint64]:
        with self._lock:
            found = self._directories.get((form.id, chunk))
            if found is not None:
                self._directories.move_to_end((form.id, chunk))
                return found
        size = PAGE_ENTRY * form.index.pages[chunk]
        read = partial(_read, form, chunk, 0, size, form.index.directories[chunk], self._hedge.read)
        found = decode_directory(self._pages.page(Place(form.id, f"directory-{chunk}", size, None), read))
        with self._lock:
            self._directories[form.id, chunk] = found
            if len(self._directories) > DIRECTORIES:
                self._directories.popitem(last=False)
        return found


def _place(form: TokenForm, number: int) -> tuple[int, int]:
    """The chunk that holds a page, and the page's number in it."""
    chunk = bisect_right(form.index.first_pages, number) - 1
    return chunk, number - form.index.first_pages[chunk]


def _read(
    form: TokenForm,
    chunk: int,
    start: int,
    size: int,
    crc64: str,
    ask: Callable[[Fetch], bytes] = lambda fetch: fetch(),
) -> bytes:
    """A part of a chunk object, proved; CorruptObject after a second damaged read. `ask`: how it is asked for."""
    problem = ""
    for _ in range(READS):
        try:
            data = ask(partial(form.store.get, form.index.chunk_key(chunk), start, size))
        except ObjectNotFound:
            raise _damaged(form, chunk, "it is missing") from None
        if len(data) == size and crc64_hex(crc64nvme(data)) == crc64:
            return data
        problem = f"bytes {start} to {start + size} have the CRC64NVME {crc64_hex(crc64nvme(data))}, not {crc64}"
        if len(data) != size:
            problem = f"it ends {size - len(data)} bytes early"
    raise _damaged(form, chunk, problem)


def _damaged(form: TokenForm, chunk: int, problem: str) -> CorruptObject:
    return CorruptObject(
        f"{form.store.uri}/{form.index.chunk_key(chunk)} is damaged: {problem}; delete {form.store.uri}/"
        f"{form.index.key} and run `finetune prepare` again, or go on without it, which reads the sources themselves"
    )
