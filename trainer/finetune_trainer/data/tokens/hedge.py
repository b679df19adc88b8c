"""Asks a second time for what is slow to come: the few answers of a store that take far longer than the others."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from threading import Lock, Thread
from typing import TypeVar

Answer = TypeVar("Answer")

PERCENTILE = 0.95
RECENT = 128
"""Reads whose times are remembered."""
KNOWN = 20
"""Reads after which their times say what is slow."""
LEAST_SECONDS = 0.02
"""Nothing is asked for again before this: a store that is so fast is waiting for our own processor."""
MOST_EXTRA = 0.05
"""Share of the reads that may be asked for twice: a store that slows down as a whole must not be asked for double."""


class Hedge:
    """Begins a read once more when it takes longer than 95 % of the last ones did; the first answer counts.

    Dean and Barroso, The Tail at Scale, CACM 56(2), 2013. Thread-safe.
    """

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=RECENT)
        self._reads = 0
        self._extra = 0
        self._lock = Lock()

    def read(self, fetch: Callable[[], Answer]) -> Answer:
        """What `fetch` returns or raises; it must do the same however often it is called, also at once."""
        began = time.monotonic()
        first = _begun(fetch)
        if not wait([first], self._patience()).done and self._one_more():
            answer = self._first_of([first, _begun(fetch)])
        else:
            answer = first.result()
        with self._lock:
            self._times.append(time.monotonic() - began)
            self._reads += 1
        return answer

    def _first_of(self, running: list[Future[Answer]]) -> Answer:
        """The first answer; a failure counts only if both fail."""
        done, others = wait(running, return_when=FIRST_COMPLETED)
        good = [future for future in done if future.exception() is None]
        return (good or list(others) or list(done))[0].result()

    def _patience(self) -> float | None:
        """Seconds after which a read is slow, if that is known."""
        with self._lock:
            times = sorted(self._times)
        return max(LEAST_SECONDS, times[int(PERCENTILE * len(times))]) if len(times) >= KNOWN else None

    def _one_more(self) -> bool:
        """Whether one more read may be asked for twice; if so it is counted."""
        with self._lock:
            allowed = self._extra < MOST_EXTRA * self._reads
            self._extra += allowed
        return allowed


def _begun(fetch: Callable[[], Answer]) -> Future[Answer]:
    """A thread of its own for each read, and one that nothing waits for: one that hangs must not hold up the end."""
    future: Future[Answer] = Future()

    def run() -> None:
        try:
            future.set_result(fetch())
        except BaseException as error:  # handed to whoever waits
            future.set_exception(error)

    Thread(target=run, name="data-hedge", daemon=True).start()
    return future
