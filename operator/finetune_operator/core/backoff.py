"""How long to wait after the n-th failure in a row."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """`first` seconds after the first failure, twice as long after each further one, up to `longest`.

    Half of it is left to chance, so that what failed together does not come back together.
    """

    first: float
    longest: float
    chance: Callable[[], float] = random.random

    def seconds(self, failures: int) -> float:
        """Return the wait after so many failures, at least one."""
        full = min(self.longest, self.first * 2.0 ** min(failures - 1, 60))
        return full * (0.5 + 0.5 * self.chance())
