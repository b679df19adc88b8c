"""Ends a rank that reports nothing for too long, after writing down where each of its threads stood."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping

from finetune_trainer.context import Answer, Reporter
from finetune_trainer.errors import Hang

LAST_WORD = 2.0
"""Seconds given to the delivery of the failure before the process ends."""


class Watchdog:
    """A reporter that passes events on and takes each of them as a sign of progress.

    After `deadline` seconds without one, `on_hang` is called with the message, from a thread of its own, because a rank
    that waits in a collective does not run Python code.
    """

    def __init__(self, reporter: Reporter, deadline: float, on_hang: Callable[[str], None]) -> None:
        self._reporter = reporter
        self._deadline = deadline
        self._on_hang = on_hang
        self._last = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def report(self, event: Mapping[str, object]) -> Answer:
        """Pass the event on."""
        self._last = time.monotonic()
        return self._reporter.report(event)

    def __enter__(self) -> Watchdog:
        self._last = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def _watch(self) -> None:
        while (left := self._last + self._deadline - time.monotonic()) > 0:
            if self._done.wait(left):
                return
        self._on_hang(f"no progress for {self._deadline:g} s (spec.noProgressDeadlineSeconds)")


def end_process(message: str) -> None:
    """Write the stacks of all threads to stderr and end the process with the exit code of a hang."""
    print(f"watchdog: {message}; the threads stand at:", file=sys.stderr, flush=True)
    faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
    os._exit(Hang.exit_code)
