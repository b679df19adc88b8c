"""Small exchanges between ranks, always over gloo so that none of them waits for a GPU stream."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist

from finetune_trainer.context import RunContext
from finetune_trainer.errors import FinetuneError, PeerFailed, Stopped

T = TypeVar("T")
Event = Mapping[str, object]
Tell = Callable[[Event], None]

BEAT = 2.0
"""Seconds between two exchanges of ranks that work for long; less where the timeout is short."""


@dataclass(frozen=True)
class ControlGroup:
    """A process group for counters, flags and JSON; the default process group must be initialised."""

    group: dist.ProcessGroup
    rank: int
    world_size: int
    beat: float = BEAT

    @classmethod
    def create(cls, timeout_seconds: float) -> ControlGroup:
        """Join a new gloo group of all ranks; collective. A rank that waits longer than the timeout raises."""
        group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_seconds))
        assert isinstance(group, dist.ProcessGroup)  # a rank that is no member gets an int instead
        return cls(group, dist.get_rank(), dist.get_world_size(), min(BEAT, timeout_seconds / 4))

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Element-wise sum over the ranks, in float64; the same result on every rank."""
        tensor = torch.tensor(list(values), dtype=torch.float64)
        dist.all_reduce(tensor, group=self.group)
        return [float(value) for value in tensor.tolist()]

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value on every rank; the value must pickle (it never leaves the process group)."""
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks in rank order, on every rank."""
        boxes: list[Any] = [None] * self.world_size
        dist.all_gather_object(boxes, value, group=self.group)
        return boxes

    def barrier(self) -> None:
        """Wait until every rank is here."""
        dist.barrier(group=self.group)

    def agree(self, work: Callable[[], T]) -> list[T]:
        """Run `work` on every rank; the results of all ranks, or, when any rank fails, an error on every rank.

        Without it, a rank that cannot write leaves the others waiting in the next collective. The failing rank raises
        its own error, whatever it is, the others `PeerFailed` with that rank's message.
        """
        done: Future[T] = Future()
        _settle(done, work)
        return self._agreed(done)

    def agree_long(self, work: Callable[[Tell], T], context: RunContext) -> list[T]:
        """`agree` for work of any length, such as reading a model: waiting for it is never taken for a hang.

        `work` runs in a thread and tells events that say how far it is. Meanwhile the ranks meet every `beat` seconds,
        and rank 0 reports what any of them told: that is the progress that its watchdog wants to see. Once any rank is
        asked to stop, every rank raises Stopped, and so does `work`, when it next tells.
        """
        task = _Task(work)
        told: list[Event | None] = [None] * self.world_size
        while True:
            wait([task.done], self.beat)
            beats: list[_Beat] = self.gather(task.beat(context.stop.reason))
            for rank, beat in enumerate(beats):
                if beat.news is not None and beat.news != told[rank] and self.is_main:
                    context.reporter.report(beat.news)
                told[rank] = beat.news
            if any(beat.failed for beat in beats) or all(beat.done for beat in beats):
                return self._agreed(task.done)
            if reasons := [beat.stop for beat in beats if beat.stop is not None]:
                task.stopped.set()
                raise Stopped(f"stopped before training, as asked ({reasons[0]}); what was committed is kept")

    def _agreed(self, mine: Future[T]) -> list[T]:
        """Share how the work ended; a rank whose work is not done yet only learns which other one failed."""
        error = mine.exception() if mine.done() else None
        value = mine.result() if mine.done() and error is None else None
        outcomes = self.gather((value, None if error is None else _text(error)))
        if error is not None:
            raise error
        for rank, (_, message) in enumerate(outcomes):
            if message is not None:
                raise PeerFailed(f"rank {rank} failed: {message}")
        return [value for value, _ in outcomes]


@dataclass(frozen=True)
class _Beat:
    """What ranks tell each other while they work: whether this one is done, its newest event, a wish to stop."""

    done: bool
    failed: bool
    news: Event | None
    stop: str | None


class _Task(Generic[T]):
    """Work in a thread that does not outlive the process."""

    def __init__(self, work: Callable[[Tell], T]) -> None:
        self.done: Future[T] = Future()
        self.stopped = threading.Event()
        self._news: Event | None = None
        threading.Thread(target=_settle, args=(self.done, lambda: work(self._tell)), daemon=True).start()

    def beat(self, stop: str | None) -> _Beat:
        done = self.done.done()  # looked at once, so that the parts fit together
        return _Beat(done, done and self.done.exception() is not None, self._news, stop)

    def _tell(self, event: Event) -> None:
        self._news = event
        if self.stopped.is_set():
            raise Stopped("stopped before training")


def _settle(done: Future[T], work: Callable[[], T]) -> None:
    try:
        done.set_result(work())
    except Exception as error:
        done.set_exception(error)


def _text(error: BaseException) -> str:
    return str(error) if isinstance(error, FinetuneError) else f"{type(error).__name__}: {error}"
