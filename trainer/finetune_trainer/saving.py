"""One save at a time, in the background: training waits only where the state that is being copied would change."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from finetune_trainer.state import Progress

T = TypeVar("T")
PULSE_SECONDS = 10.0
"""Seconds between two signs of life of a rank that waits for its save."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was committed as log entry `seq`: what it holds, and what it took.

    `size` is the bytes of all ranks, `seconds` the time until it was committed; `copied` says that training could go on
    meanwhile on every rank.
    """

    seq: int
    progress: Progress
    size: int
    seconds: float
    copied: bool


@dataclass(frozen=True)
class Ended(Generic[T]):
    """What a save returned, and for how many seconds it kept training waiting on this rank."""

    result: T
    waited: float


class Saves(Generic[T]):
    """At most one save of a rank, in a thread that does not outlive the process.

    Every rank begins the same saves, and saves agree between ranks on their outcome: waiting for one's own is enough.
    `clock` is monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._done: Future[T] | None = None
        self._copied = threading.Event()
        self._waited = 0.0

    @property
    def in_flight(self) -> bool:
        """Whether a save was begun whose outcome was not taken yet."""
        return self._done is not None

    @property
    def at_work(self) -> bool:
        """Whether this rank's part of it still goes on."""
        return self._done is not None and not self._done.done()

    def begin(self, save: Callable[[threading.Event], T]) -> None:
        """Run `save` in the background; it sets the event once the optimizer may change the state again."""
        assert self._done is None, "one save at a time: take the outcome of the one before"
        self._done, self._copied, self._waited = Future(), threading.Event(), 0.0
        threading.Thread(target=_run, args=(save, self._done, self._copied), name="save", daemon=True).start()

    def before_update(self) -> None:
        """Wait until the state is copied: call it before whatever changes it."""
        if self.at_work:
            self._wait(self._copied.wait)

    def take(self, pulse: Callable[[], None] = lambda: None) -> Ended[T]:
        """Wait for the save and return its outcome, or raise its error; `pulse` is called while it takes long."""
        done = self._done
        assert done is not None, "no save was begun"

        def until_done() -> None:
            while not _is_done(done, PULSE_SECONDS):
                pulse()

        self._wait(until_done)
        self._done = None
        return Ended(done.result(), self._waited)

    def abandon(self, seconds: float) -> None:
        """Give a save that was begun so many seconds to end, well or not."""
        if self._done is not None:
            _is_done(self._done, seconds)

    def _wait(self, wait: Callable[[], object]) -> None:
        started = self._clock()
        wait()
        self._waited += self._clock() - started


def _run(save: Callable[[threading.Event], T], done: Future[T], copied: threading.Event) -> None:
    try:
        done.set_result(save(copied))
    except BaseException as error:
        done.set_exception(error)
    finally:
        copied.set()


def _is_done(done: Future[T], seconds: float) -> bool:
    """Whether it is, or becomes so within that time."""
    try:
        done.exception(seconds)
    except TimeoutError:
        return False
    return True
