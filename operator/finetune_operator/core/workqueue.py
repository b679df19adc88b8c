"""Keys of objects that need a look: each one once, in the order of their priority, never by two workers at a time."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from enum import IntEnum
from typing import Generic, TypeVar

from finetune_operator.core.backoff import Backoff

K = TypeVar("K", bound=Hashable)

RETRIES = Backoff(first=0.5, longest=300.0)

TURN_OF_THE_LAST = 8
"""Every so many keys one of the lowest priority goes first, so that a flood of others cannot hold it back."""


class Priority(IntEnum):
    """What goes first: somebody changed a spec, something happened to a child, or a list says what is there."""

    SPEC = 0
    CHILD = 1
    LIST = 2


class WorkQueue(Generic[K]):
    """A queue of keys. A key that is added while it waits is there once, with the higher of its priorities; one that is
    added while it is worked on comes again afterwards.

    A key that `get` gave is being worked on until `done`. Taking a key drops what was planned for it: its worker plans
    anew, with `add(after=...)` or, after a failure, `retry`. `observe` is told how long each key waited, in seconds.
    While the queue is closed, which it is not at first, it takes no key.
    """

    def __init__(
        self,
        retries: Backoff = RETRIES,
        clock: Callable[[], float] = time.monotonic,
        observe: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._retries = retries
        self._clock = clock
        self._observe = observe
        self._lines: dict[Priority, deque[K]] = {priority: deque() for priority in Priority}
        self._waiting: dict[K, tuple[Priority, float]] = {}  # and since when; what else the lines hold is stale
        self._active: dict[K, list[Priority]] = {}  # with the priorities that it was added with meanwhile
        self._planned: dict[K, float] = {}
        self._plan: list[tuple[float, int, K, Priority]] = []  # a heap; what `_planned` does not say is stale
        self._additions = 0
        self._taken = 0
        self._failures: dict[K, int] = {}
        self._sleepers: dict[bool, deque[asyncio.Future[None]]] = {False: deque(), True: deque()}  # by `urgent`
        self._timer: asyncio.TimerHandle | None = None
        self._open = True

    def __len__(self) -> int:
        """Return how many keys could be worked on now."""
        return len(self._waiting)

    @property
    def busy(self) -> int:
        """Keys that could be worked on now or are."""
        return len(self._waiting) + len(self._active)

    def open(self) -> None:
        """Take keys from now on."""
        self._open = True

    def close(self) -> None:
        """Forget all keys and take none, while nobody works on any: they would wait in vain, and count as late."""
        self._open = False
        for line in self._lines.values():
            line.clear()
        self._plan.clear()
        for forgotten in (self._waiting, self._planned, self._failures):
            forgotten.clear()

    def add(self, key: K, priority: Priority = Priority.CHILD, after: float = 0.0) -> None:
        """Have `key` worked on, at the earliest after so many seconds; of two plans for a key the earlier stands."""
        if not self._open:
            return
        if after > 0:
            self._add_later(key, priority, self._clock() + after)
        elif key in self._active:
            self._active[key].append(priority)
        elif key not in self._waiting:
            self._queue(key, priority, self._clock())
            self._wake(priority)
        elif priority < self._waiting[key][0]:
            self._queue(key, priority, self._waiting[key][1])
            self._wake(priority)

    def retry(self, key: K) -> float:
        """Have `key`, which failed, worked on again: later each time. Returns in how many seconds."""
        self._failures[key] = self._failures.get(key, 0) + 1
        after = self._retries.seconds(self._failures[key])
        self.add(key, after=after)
        return after

    def forget(self, key: K) -> None:
        """Count the failures of `key` from zero again."""
        self._failures.pop(key, None)

    def done(self, key: K) -> None:
        """Take back a key that `get` or `take` gave."""
        if priorities := self._active.pop(key):
            self.add(key, min(priorities))

    async def get(self, urgent: bool = False) -> K:
        """Wait for a key; an `urgent` one is of the highest priority, and leaves all others to who takes any."""
        while (key := self.take(urgent)) is None:
            if self._waiting:  # another one took the key that this one was woken for, in place of its own
                self._wake(Priority.LIST)
            await self._sleep(urgent)
        return key

    def take(self, urgent: bool = False) -> K | None:
        """Return a key if one could be worked on now."""
        self._add_due()
        for priority in (Priority.SPEC,) if urgent else self._order():
            line = self._lines[priority]
            while line:
                key = line.popleft()
                if self._waiting.get(key, (None,))[0] == priority:
                    self._observe(self._clock() - self._waiting.pop(key)[1])
                    self._planned.pop(key, None)
                    self._active[key] = []
                    return key
        return None

    def _order(self) -> Iterable[Priority]:
        self._taken += 1
        return reversed(Priority) if self._taken % TURN_OF_THE_LAST == 0 else Priority

    def _queue(self, key: K, priority: Priority, since: float) -> None:
        self._waiting[key] = (priority, since)
        self._lines[priority].append(key)

    def _add_later(self, key: K, priority: Priority, due: float) -> None:
        if self._planned.get(key, due + 1) <= due:
            return
        self._planned[key] = due
        self._additions += 1  # keys need not be comparable
        heapq.heappush(self._plan, (due, self._additions, key, priority))
        if len(self._plan) > 2 * len(self._planned) + 100:
            self._plan = [item for item in self._plan if self._planned.get(item[2]) == item[0]]
            heapq.heapify(self._plan)
        self._set_timer()

    def _add_due(self) -> None:
        now = self._clock()
        while self._plan and self._plan[0][0] <= now:
            due, _, key, priority = heapq.heappop(self._plan)
            if self._planned.get(key) == due:
                del self._planned[key]
                self.add(key, priority)

    async def _sleep(self, urgent: bool) -> None:
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line = self._sleepers[urgent]
        line.append(sleeper)
        self._set_timer()
        try:
            await sleeper
        except asyncio.CancelledError:
            if sleeper in line:
                line.remove(sleeper)
            else:  # it was woken for a key that another one has to take now
                self._wake(Priority.LIST)
                self._wake(Priority.SPEC)
            raise

    def _wake(self, priority: Priority) -> None:
        """Wake one who may take a key of this priority, and who could take no other before one who could."""
        for urgent in (True, False) if priority == Priority.SPEC else (False,):
            sleepers = self._sleepers[urgent]
            while sleepers:
                sleeper = sleepers.popleft()
                if not sleeper.done():
                    sleeper.set_result(None)
                    return

    def _set_timer(self) -> None:
        if not any(self._sleepers.values()) or not self._plan:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, self._plan[0][0] - self._clock()), self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._add_due()
        self._set_timer()
