"""Elastic runs: how many ranks there may be, when more of them fit, and how those there are make room for a new start.

Ray Train starts what fits whenever it starts ranks, so that a lost node costs no waiting. It would also resize a group
that trains, but at once and without a commit (`ElasticScalingPolicy`); that is switched off, and growing is done here:
ranks that shall be more are asked to commit and end like those of a run that stops, and are started again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from finetune_trainer.spec import FineTuneJob, ranks

LOOK_SECONDS = 2.0
"""Between two looks at what is free."""

STEADY_SECONDS = 10.0
"""Room has to be there for so long: a node that has just come may go again, and one new start serves several nodes."""

JOIN_SECONDS = 30.0
"""Time that the first start waits for workers that are on their way; a pod of an image that is there takes 20."""

GROW = "to go on with more ranks"
"""Reason of a request to commit and end that is no stop of the run."""


def rank_range(job: FineTuneJob) -> tuple[int, int]:
    """Fewest and most ranks: `minReplicas` to `replicas` times the ranks of one."""
    return job.spec.workers.fewest * job.spec.workers.ranks_per_replica, ranks(job)


def room(free: Mapping[str, float], per_rank: Mapping[str, float]) -> int:
    """How many ranks fit into free resources, both as Ray counts them."""
    return min(int((free.get(name, 0.0) + 1e-6) // amount) for name, amount in per_rank.items() if amount > 0)


class Resize:
    """A request that the ranks commit, end, and are started again in another number; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = False

    @property
    def asked(self) -> bool:
        """Whether the ranks shall make room."""
        return self._asked

    def ask(self) -> None:
        """Ask for it."""
        with self._lock:
            self._asked = True

    def take(self) -> bool:
        """Whether it was asked for; it is no longer."""
        with self._lock:
            asked, self._asked = self._asked, False
        return asked


@dataclass
class Growth:
    """Decides when to grow by a whole replica or more; `each` is its ranks, `clock` monotonic in seconds."""

    each: int
    clock: Callable[[], float] = time.monotonic
    _since: float | None = field(default=None, init=False)

    def due(self, fitting: int, training: bool) -> bool:
        """Whether so many more ranks have fitted beside those that train for long enough."""
        if fitting < self.each or not training:
            self._since = None
            return False
        if self._since is None:
            self._since = self.clock()
        if self.clock() - self._since < STEADY_SECONDS:
            return False
        self._since = None
        return True
