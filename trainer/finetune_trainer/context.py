"""What a launcher hands to the training loop; the loop knows nothing else of Ray or torchrun.

Stdlib only, so that everything may import it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

RESUMING = "resuming"
"""Name of the phase in which the ranks load the commit that they go on from."""


def process_group_backend(on_gpu: bool) -> str:
    """What torch's process group of all ranks is made with.

    Both on GPUs: peft broadcasts the rows of added tokens from where the weights are then, which is the host's memory.
    """
    return "cpu:gloo,cuda:nccl" if on_gpu else "gloo"


@dataclass(frozen=True)
class Answer:
    """What the receiver of a report wants from the run.

    `stop_by` is the number of seconds left in which to commit and stop, or None to go on. It is a duration and not a
    time of day, so that clocks need not agree. `reason` says why, for people.
    """

    stop_by: float | None = None
    reason: str = ""


class Reporter(Protocol):
    """Takes rank 0's events (`finetune_trainer.launch.events`) and carries them to whoever watches the run."""

    def report(self, event: Mapping[str, object]) -> Answer:
        """Hand over one JSON-able event without waiting for its delivery; returns the newest answer received so far."""
        ...


class SilentReporter:
    """The reporter of every rank but rank 0."""

    def report(self, event: Mapping[str, object]) -> Answer:
        """Drop the event."""
        return Answer()


class StopSignal:
    """A request to commit and stop, made by a signal, by an answer to a progress report, or by code; thread-safe.

    It is local to one rank and other ranks may see theirs a step later: the loop agrees on it with a collective before
    it acts. `clock` is a monotonic clock in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.RLock()  # re-entrant: a signal handler may interrupt a caller that holds it
        self._requested = False
        self._reason: str | None = None
        self._deadline: float | None = None

    @property
    def requested(self) -> bool:
        """Whether the run shall commit its state and raise `finetune_trainer.errors.Stopped`."""
        return self._requested

    @property
    def reason(self) -> str | None:
        """Why, for the message of `Stopped`, for instance `SIGTERM received`; None while nothing is requested."""
        return self._reason

    def request(self, reason: str, within: float | None = None) -> None:
        """Ask for a stop within so many seconds (None: no deadline); the first reason and earliest deadline hold."""
        with self._lock:
            if self._reason is None:
                self._reason = reason
            if within is not None:
                deadline = self._clock() + within
                self._deadline = deadline if self._deadline is None else min(self._deadline, deadline)
            self._requested = True

    def remaining(self) -> float | None:
        """Seconds left to commit and exit (never below 0), or None without a deadline."""
        with self._lock:
            return None if self._deadline is None else max(0.0, self._deadline - self._clock())


@dataclass(frozen=True)
class RunContext:
    """The place of one rank in a run.

    `device` is a torch device name: `cpu` or `cuda:<index>`. `attempt` is the number of the attempt that a cluster
    started, or None on a laptop (the commit log then counts). `workdir` is scratch space on the node of this rank, for
    this run only, shared by the ranks of the node and kept over restarts of the workers. `checked` says that the
    launcher has made the checks of `preflight` on this machine. `staging` is a folder for this run only on a file
    system in memory that outlives the ranks, where checkpoints are copied before they are stored; None: there is none.
    `data_cache_bytes`: most that the node's ranks may keep of the data below `workdir`; 0: nothing.
    The process group (gloo or nccl) is initialised before the loop gets the context, and destroyed by the launcher.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    device: str
    attempt: int | None
    reporter: Reporter
    stop: StopSignal
    workdir: Path
    checked: bool = False
    staging: Path | None = None
    data_cache_bytes: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this rank reports and commits."""
        return self.rank == 0
