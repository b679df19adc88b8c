"""The newest report of every job, merged; when it is worth a look; and the stops that answers ask for. Pure state.

Nothing here does I/O or reads a clock of its own. Everything may be lost at any moment (a new leader begins empty):
runs report again within seconds, and reconciling asks again for every stop that a status holds.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from finetune_operator.api.report import Report, laid_over
from finetune_operator.api.status import CheckpointStatus, OutputStatus, Progress
from finetune_operator.progress.payload import Batch, Change
from finetune_operator.progress.values import LONGEST_REMAINING

Key = tuple[str, str]
"""Namespace and name of a job."""

INTERVAL = 10.0
"""Seconds between two looks at a job's report that only hold progress, so between two writes of its status."""

URGENT_INTERVAL = 1.0
"""The same for commits, restarts and ends: at once, but for a run that commits faster than statuses can be written."""

MOST_STREAMS = 32
"""Senders of a job that are told apart at once; a run has one, and every `ask` of a preStop hook sends no event."""

SLACK = 0.001
"""Seconds by which a timer may be early."""


@dataclass(frozen=True)
class Answer:
    """What a run is told: seconds left in which to commit and stop, or None to go on, and why."""

    stop_by: float | None = None
    reason: str = ""

    def to_json(self) -> dict[str, object]:
        """The answer's body, as `finetune_trainer.launch.progress` reads it."""
        return {"stopBy": self.stop_by, "reason": self.reason}


GO_ON = Answer()


@dataclass(frozen=True)
class _Stop:
    deadline: datetime
    reason: str
    attempt: int | None


@dataclass
class _Box:
    """One job's report, what of it was shown last and when, and the start of the stretch that its speed is taken of."""

    key: Key
    report: Report
    streams: OrderedDict[str, int] = field(default_factory=OrderedDict)
    shown: Report | None = None
    shown_at: float = float("-inf")
    urgent: bool = True
    wake_at: float | None = None
    stretch: tuple[float, float] | None = None

    @property
    def due(self) -> float:
        """When the newest report may be shown."""
        return self.shown_at + (URGENT_INTERVAL if self.urgent else INTERVAL)


class Mailbox:
    """Reports come in by `put` and are read by `take`, both keyed by the uid of the job.

    `on_report(key, after)` is called when a job should be reconciled in so many seconds: at most every 10 s for
    progress, at once for what cannot wait. `clock` is monotonic, in seconds; `now` is the time of day in UTC.
    """

    def __init__(
        self,
        on_report: Callable[[Key, float], None],
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._on_report = on_report
        self._clock = clock
        self._now = now
        self._boxes: dict[str, _Box] = {}
        self._stops: dict[str, _Stop] = {}

    def put(self, uid: str, key: Key, attempt: int, batch: Batch) -> Answer:
        """Merge what one request of an attempt's pod reports, and return the answer to it.

        Repeated events and those of an attempt that a newer one has followed change nothing.
        """
        box = self._box(uid, key, attempt) if batch.changes else None
        if box is not None and box.report.attempt == attempt:
            changes = _unseen(box.streams, batch)
            for change in changes:
                self._merge(box, change)
            if changes:
                box.urgent = box.urgent or any(change.urgent for change in changes)
                self._wake(box)
        return self._answer(uid, attempt)

    def take(self, uid: str) -> Report | None:
        """The report to reconcile with; None before the first. It stays until `forget`, so that no retry loses it.

        Progress that came less than 10 s after the last report that was shown is held back until then.
        """
        box = self._boxes.get(uid)
        if box is None:
            return None
        if box.shown is not box.report:
            if self._clock() >= box.due - SLACK:
                box.shown, box.shown_at, box.urgent, box.wake_at = box.report, self._clock(), False, None
            else:
                box.wake_at = None  # the queue drops what is planned for a job when it hands it out
                self._wake(box)
        return box.shown

    def output(self, uid: str, attempt: int) -> OutputStatus | None:
        """What this attempt told of its result; None before, and once a newer attempt is heard."""
        box = self._boxes.get(uid)
        return box.report.output if box is not None and box.report.attempt == attempt else None

    def ask_stop(self, uid: str, deadline: datetime, reason: str, attempt: int | None = None) -> None:
        """Put into every answer that the run shall commit and stop by then; `attempt`: this one and those before it."""
        self._stops[uid] = _Stop(deadline, reason, attempt)

    def call_off(self, uid: str) -> None:
        """Ask no longer; a run that was told already stops all the same."""
        self._stops.pop(uid, None)

    def forget(self, uid: str) -> None:
        """Drop everything about a job that is gone."""
        self._boxes.pop(uid, None)
        self._stops.pop(uid, None)

    def clear(self) -> None:
        """Drop everything: this replica leads no more, and what it knows grows old."""
        self._boxes.clear()
        self._stops.clear()

    def __len__(self) -> int:
        """Jobs of which anything is kept."""
        return len(self._boxes.keys() | self._stops.keys())

    def _box(self, uid: str, key: Key, attempt: int) -> _Box:
        """The box of a job, begun anew by the first report of a newer attempt."""
        box = self._boxes.get(uid)
        if box is None or box.report.attempt < attempt:
            shown_at = float("-inf") if box is None else box.shown_at
            box = self._boxes[uid] = _Box(key, Report(attempt, self._now()), shown_at=shown_at)
        return box

    def _answer(self, uid: str, attempt: int) -> Answer:
        box, stop = self._boxes.get(uid), self._stops.get(uid)
        if box is not None and attempt < box.report.attempt:
            return Answer(0.0, f"attempt {box.report.attempt} has begun")
        if stop is None or (stop.attempt is not None and attempt > stop.attempt):
            return GO_ON
        return Answer(max(0.0, (stop.deadline - self._now()).total_seconds()), stop.reason)

    def _wake(self, box: _Box) -> None:
        """Have the job reconciled when its report may be shown, unless that is arranged already."""
        now = self._clock()
        at = max(now, box.due)
        if box.wake_at is None or not now < box.wake_at <= at + SLACK:
            box.wake_at = at
            self._on_report(box.key, at - now)

    def _merge(self, box: _Box, change: Change) -> None:
        report, now = box.report, self._now()
        progress, checkpoint = dict(change.progress), dict(change.checkpoint)
        if change.restarts is not None:
            box.stretch = None
            progress["estimated_completion_time"] = None
        if change.share is not None or change.remaining is not None:
            remaining = self._remaining(box, change)
            progress["estimated_completion_time"] = None if remaining is None else now + timedelta(seconds=remaining)
        if progress:
            progress["updated_at"] = now
        if checkpoint and not change.resumed:
            checkpoint["committed_at"] = now
        box.report = Report(
            attempt=report.attempt,
            at=now,
            progress=laid_over(report.progress, Progress(**progress) if progress else None),
            checkpoint=laid_over(report.checkpoint, CheckpointStatus(**checkpoint) if checkpoint else None),
            output=change.output or report.output,
            restarts=report.restarts if change.restarts is None else change.restarts,
            steps_lost=report.steps_lost if change.steps_lost is None else change.steps_lost,
            failure=change.failure or (report.failure if change.restarts is None else None),
            finished=change.finished or report.finished,
        )

    def _remaining(self, box: _Box, change: Change) -> float | None:
        """Seconds to the end: as reported, or at the speed since the first progress after the last restart."""
        if change.remaining is not None or change.share is None:
            return change.remaining
        clock = self._clock()
        if box.stretch is None or change.share < box.stretch[1]:
            box.stretch = clock, change.share
        began, share = box.stretch
        if clock <= began or change.share <= share:
            return None
        remaining = (clock - began) * (1 - change.share) / (change.share - share)
        return remaining if remaining <= LONGEST_REMAINING else None


def _unseen(streams: OrderedDict[str, int], batch: Batch) -> list[Change]:
    """The changes of a batch that no earlier one held; notes their numbers, for the newest streams only."""
    if batch.stream is None:
        return [change for _, change in batch.changes]
    seen, fresh = streams.pop(batch.stream, 0), []
    for number, change in batch.changes:
        if number > seen:
            seen = number
            fresh.append(change)
    streams[batch.stream] = seen
    while len(streams) > MOST_STREAMS:
        streams.popitem(last=False)
    return fresh
