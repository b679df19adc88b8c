"""Watches one run from start to end: shows its events, passes stops on, notices silence, and says how it ended."""

from __future__ import annotations

import logging
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

from finetune_trainer.context import Reporter, StopSignal
from finetune_trainer.errors import Hang, Stopped
from finetune_trainer.launch.elastic import Resize
from finetune_trainer.launch.launcher import Launcher, Lines
from finetune_trainer.launch.lost_steps import LostSteps
from finetune_trainer.launch.outcome import Failure, RunFailed, failure_of, root_cause
from finetune_trainer.launch.receiver import Receiver
from finetune_trainer.spec import FineTuneJob
from finetune_trainer.spec.job import GRACE

logger = logging.getLogger(__name__)

TICK = 0.2
"""Seconds between two looks at signals, deadlines and the launcher."""

SILENCE_FACTOR = 1.5
"""The ranks notice a hang themselves after noProgressDeadlineSeconds; this many times that, they are past noticing."""

ABORT_TIMEOUT = 30.0
"""Seconds for the launcher to return after an abort."""


GRACE_SECONDS = "FINETUNE_GRACE_SECONDS"
"""Environment variable by which the operator says how long a stop of this attempt may take."""


def grace_of(job: FineTuneJob, environ: Mapping[str, str]) -> float | None:
    """Seconds from a signal to the end: as the operator says, else as the manifest does on a cluster; at a terminal,
    the user decides."""
    if job.metadata.uid is None:
        return None
    return float(environ.get(GRACE_SECONDS) or job.spec.termination_grace_period_seconds or GRACE)


class View(Protocol):
    """Shows a run to the user."""

    def show(self, event: Mapping[str, object]) -> None:
        """Show one event."""
        ...

    def note(self, text: str) -> None:
        """Show one line of the launcher's own."""
        ...


@dataclass(frozen=True)
class Deadlines:
    """Seconds: until the first event of a rank, between two events, and from a signal to the end (None: no limit)."""

    start: float
    silence: float
    grace: float | None = None


@dataclass(frozen=True)
class Ended:
    """How a run ended: with the loop's result, or with a failure (a stop with a commit is one, exit code 15)."""

    exit_code: int
    result: Mapping[str, object] | None = None
    failure: Failure | None = None


class Supervisor:
    """Runs a launcher in a thread and serves its events, the signals and the deadlines in the main thread."""

    def __init__(self, view: View, stop: StopSignal, deadlines: Deadlines, upstream: Reporter | None = None) -> None:
        self._view = view
        self._stop = stop
        self._resize = Resize()
        self._failed_starts = 0
        self._deadlines = deadlines
        self._upstream = upstream
        self._events: queue.SimpleQueue[Mapping[str, object]] = queue.SimpleQueue()
        self._signals: list[int] = []
        self._reported: list[Failure] = []
        self._lost_steps = LostSteps()
        self._result: Mapping[str, object] | None = None
        self._since = time.monotonic()
        self._started = False
        self._error: BaseException | None = None

    def supervise(self, make: Callable[[Lines], Launcher], host: str = "127.0.0.1") -> Ended:
        """Launch, watch to the end, and say how it ended; `host` is the address that ranks reach this process by."""
        receiving = Receiver(self._from_rank, self._stop, host, resize=self._resize)
        with receiving as receiver, self._handled_signals():
            lines = Lines(
                receiver.channel(), self._events.put, self._stop, self._resize, self._is_training, self._restarts
            )
            launcher = make(lines)
            thread = threading.Thread(target=self._launch, args=(launcher,), name="launcher", daemon=True)
            thread.start()
            aborted = self._watch(launcher, thread)
            thread.join(ABORT_TIMEOUT if aborted else None)
            self._drain()
        return self._ended(aborted)

    def _is_training(self) -> bool:
        return self._started

    def _restarts(self) -> int:
        return self._failed_starts

    def _from_rank(self, event: Mapping[str, object]) -> None:
        self._since, self._started = time.monotonic(), True
        self._events.put(event)

    def _launch(self, launcher: Launcher) -> None:
        try:
            launcher.run()
        except BaseException as error:
            self._error = error

    def _watch(self, launcher: Launcher, thread: threading.Thread) -> Failure | None:
        """Serve until the launcher returns; returns why it had to be aborted, if it had to."""
        noted = 0
        while thread.is_alive():
            self._drain(TICK)
            if len(self._signals) > noted:
                noted = len(self._signals)
                self._note_signal(noted)
            if failure := self._overdue(noted):
                launcher.abort()
                return failure
        return None

    def _drain(self, wait: float = 0.0) -> None:
        """Handle all events that are there, after waiting so many seconds for a first one."""
        try:
            self._handle(self._events.get(timeout=wait) if wait else self._events.get_nowait())
            while True:
                self._handle(self._events.get_nowait())
        except queue.Empty:
            return

    def _handle(self, event: Mapping[str, object]) -> None:
        kind = event["kind"]
        if kind == "failure":  # shown when the launcher has decided what follows from it
            self._reported.append(_reported(event))
            return
        if kind == "restart":
            self._failed_starts = int(str(event["restarts"]))
        if kind in ("restart", "resize"):
            self._resize.take()  # the ranks are started as those that fit either way
            self._reported.clear()
            self._since, self._started = time.monotonic(), False
        if kind == "result":
            self._result = {key: value for key, value in event.items() if key != "kind"}
        event = self._lost_steps.note(event)
        self._show(event)
        if self._upstream is not None:
            self._upstream.report(event)

    def _show(self, event: Mapping[str, object]) -> None:
        try:
            self._view.show(event)
        except (TypeError, ValueError, KeyError) as error:  # an odd event must not end a run that trains well
            logger.warning("could not show %r: %s", event, error)

    def _note_signal(self, count: int) -> None:
        name = signal.Signals(self._signals[-1]).name
        if count == 1:
            self._stop.request(f"{name} received", self._deadlines.grace)
            self._view.note(f"{name}: stopping after a checkpoint; once more ends the run at once, without one")

    def _overdue(self, signals: int) -> Failure | None:
        """Return why the run has to be aborted now, or None."""
        if signals > 1:
            return Failure(1, "Aborted", "aborted by a second signal, without a checkpoint", retryable=True)
        if self._stop.requested and not self._started:  # no rank has begun that could answer, and none has to commit
            return failure_of(Stopped(f"stopped before the ranks had started, as asked ({self._stop.reason})"))
        if self._stop.requested and self._stop.remaining() == 0:
            return Failure(1, "Aborted", "did not stop in time; ended without a checkpoint", retryable=True)
        silent = time.monotonic() - self._since
        limit = self._deadlines.silence * SILENCE_FACTOR if self._started else self._deadlines.start
        if silent > limit:
            silence = failure_of(Hang(f"nothing was heard of the ranks for {silent:.0f} s"))
            return root_cause([silence, *self._reported])  # a rank may have said what keeps the others waiting
        return None

    def _ended(self, aborted: Failure | None) -> Ended:
        if aborted is None and self._error is None and self._result is not None:
            return Ended(0, self._result)
        cause = aborted or self._cause()
        if self._upstream is not None:
            self._upstream.report(cause.event())
        return Ended(cause.exit_code, self._result, cause)

    def _cause(self) -> Failure:
        """Return what the launcher raised, or a more telling failure that a rank reported before."""
        error = self._error or RunFailed(Failure(1, "NoResult", "the ranks ended without a result", retryable=True))
        if isinstance(error, RunFailed) and error.failure.reason != Stopped.reason:
            return root_cause([error.failure, *self._reported])
        return failure_of(error)

    @contextmanager
    def _handled_signals(self) -> Iterator[None]:
        """Count SIGINT and SIGTERM instead of ending at once."""

        def count(number: int, frame: FrameType | None) -> None:
            signal.alarm(0)  # Ray's own handler, which runs before this one, aborts the process 3 s after a SIGTERM
            self._signals.append(number)

        previous = {number: signal.signal(number, count) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _reported(event: Mapping[str, object]) -> Failure:
    rank = event.get("rank")
    return Failure(
        exit_code=int(str(event["exitCode"])),
        reason=str(event["reason"]),
        message=str(event["message"]),
        retryable=bool(event["retryable"]),
        rank=int(str(rank)) if rank is not None else None,
    )
