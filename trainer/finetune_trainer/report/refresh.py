"""Writes a page again and again in a thread beside training, which it never stops and never waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable

from finetune_trainer.errors import FinetuneError

PAUSE = 20.0
"""Seconds after a page was written before the next one is: making one takes a second of a core."""

LAST_WAIT = 30.0
"""Seconds that the end of a run waits for a page that is being stored."""


class Refresher:
    """Calls the newest function it was given, one at a time; what cannot be written is said once and left.

    `tell` takes the message, in another thread.
    """

    def __init__(self, tell: Callable[[str], None], pause: float = PAUSE) -> None:
        self._tell = tell
        self._pause = pause
        self._lock = threading.Lock()
        self._hurry = threading.Event()
        self._wanted: Callable[[], object] | None = None
        self._thread: threading.Thread | None = None
        self._told = False

    def ask(self, write: Callable[[], object]) -> None:
        """Have `write` called soon, in place of what was asked for before and was not begun; returns at once."""
        with self._lock:
            self._wanted = write
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="report", daemon=True)
                self._thread.start()

    def close(self, seconds: float = LAST_WAIT) -> None:
        """Give what was asked for so many seconds to be written."""
        self._hurry.set()
        thread = self._thread
        if thread is not None:
            thread.join(seconds)

    def _work(self) -> None:
        while (write := self._next()) is not None:
            try:
                write()
            except Exception as error:  # nothing that a page needs may end a run
                self._complain(error)
            self._hurry.wait(self._pause)

    def _next(self) -> Callable[[], object] | None:
        with self._lock:
            wanted, self._wanted = self._wanted, None
            if wanted is None:
                self._thread = None
            return wanted

    def _complain(self, error: Exception) -> None:
        if not self._told:
            self._told = True
            why = str(error) if isinstance(error, FinetuneError) else f"{type(error).__name__}: {error}"
            self._tell(f"{why}; training goes on, and the next evaluation tries again")
