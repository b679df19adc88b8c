"""Pages that are used again, up to a number of bytes."""

from __future__ import annotations

import heapq
from threading import Lock

Page = tuple[str, int]
"""A form's id and the number of a page in it."""

PageData = bytes | memoryview
"""What a page holds; a part of a larger object that is held anyway, maybe."""


class PageCache:
    """Gives up the page whose next use is furthest (Belady, IBM Systems Journal 5(2), 1966), of equals the newest.

    Keeping the older of equals makes of a data set larger than the budget a part that stays, not one that is always
    given up just before it is read again, as least recently used would. Thread-safe.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._size = 0
        self._pages: dict[Page, tuple[int, PageData]] = {}
        self._furthest: list[tuple[float, int, Page]] = []
        self._count = 0
        self._lock = Lock()

    @property
    def size(self) -> int:
        """Bytes held."""
        return self._size

    def get(self, page: Page, next_use: float) -> PageData | None:
        """The page if it is held; from now on it is used next at `next_use`."""
        with self._lock:
            found = self._pages.pop(page, None)
            if found is None:
                return None
            self._size -= len(found[1])
            self._insert(page, found[1], next_use)
            return found[1]

    def put(self, page: Page, data: PageData, next_use: float) -> None:
        """Hold the page, unless all that is held is used sooner."""
        with self._lock:
            if page not in self._pages and len(data) <= self._budget:
                self._insert(page, data, next_use)

    def _insert(self, page: Page, data: PageData, next_use: float) -> None:
        self._count += 1
        self._pages[page] = (self._count, data)
        self._size += len(data)
        heapq.heappush(self._furthest, (-next_use, -self._count, page))
        while self._size > self._budget:
            _, count, furthest = heapq.heappop(self._furthest)
            if self._pages.get(furthest, (0, b""))[0] == -count:  # not one that was used or given up since
                self._size -= len(self._pages.pop(furthest)[1])
        if len(self._furthest) > 2 * len(self._pages) + 64:
            live = {count for count, _ in self._pages.values()}
            self._furthest = [entry for entry in self._furthest if -entry[1] in live]
            heapq.heapify(self._furthest)
