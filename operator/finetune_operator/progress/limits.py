"""How much one job, and all of them together, may ask of the endpoint."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

MOST_REMEMBERED = 16384


class Allowances:
    """A bucket per key that `rate` units a second flow into, up to `burst`; keys that were seen longest ago go."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._levels: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, key: Hashable, units: float = 1.0) -> bool:
        """Take so many units if they are there."""
        now = self._clock()
        level, since = self._levels.pop(key, (self._burst, now))
        level = min(self._burst, level + (now - since) * self._rate)
        granted = level >= units
        self._levels[key] = (level - units if granted else level), now
        while len(self._levels) > MOST_REMEMBERED:
            self._levels.popitem(last=False)
        return granted
