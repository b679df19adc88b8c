"""The trainer's side of its trackers: hands over records without ever waiting."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from finetune_trainer.spec import Trackers
from finetune_trainer.trackers.base import About, Outcome

MOST_WAITING = 10_000
"""Records that wait for a tracker that is slow or down; then the oldest ones are lost to it."""

LAST_WAIT = 20.0
"""Seconds that a finished run waits for its trackers, all of them together."""

SHORT_WAIT = 5.0
"""The same for a run that was stopped or failed, whose place may be needed."""

NO_GPU = {"CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}


class Feed:
    """One tracker's process and the two threads that speak with it. `tell` takes its messages, in another thread."""

    def __init__(self, name: str, options: Mapping[str, Any], about: About, tell: Callable[[str], None]) -> None:
        self.name = name
        self._tell = tell
        self._waiting: deque[str] = deque(maxlen=MOST_WAITING)
        self._changed = threading.Condition()
        self._closed = False
        self._lost = False
        self._given_up = False
        about.folder.mkdir(parents=True, exist_ok=True)
        with (about.folder.parent / f"{name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "finetune_trainer.trackers.process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | NO_GPU,
                start_new_session=True,  # an interrupt from the keyboard is the trainer's to handle
            )
        self._first = _line({"tracker": name, "options": options, "about": about.model_dump(mode="json")})
        self._listener = threading.Thread(target=self._listen, name=f"tracker {name}", daemon=True)
        self._listener.start()
        threading.Thread(target=self._write, name=f"tracker {name}", daemon=True).start()

    def put(self, record: Mapping[str, Any]) -> None:
        """Hand over a record; returns at once."""
        self._put(_line(record))

    def end(self, outcome: Outcome) -> None:
        """Say how the run ended; nothing is handed over after it."""
        self._put(_line({"outcome": outcome}))
        with self._changed:
            self._closed = True
            self._changed.notify()

    def wait(self, seconds: float) -> None:
        """Give the tracker so many seconds, then end its process and those that it started."""
        try:
            self._process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            self._given_up = True
            self._tell(f"{self.name}: not everything was sent in time, the rest is in metrics.jsonl")
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._listener.join(1.0)

    def _put(self, line: str) -> None:
        with self._changed:
            full = len(self._waiting) == MOST_WAITING
            if full:
                self._waiting.popleft()
            self._waiting.append(line)
            self._changed.notify()
        if full and not self._lost:
            self._lost = True
            self._tell(f"{self.name}: too slow, its oldest records are left out; all are in metrics.jsonl")

    def _write(self) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        try:
            pipe.write(self._first.encode())
            pipe.flush()
            while (lines := self._take()) is not None:
                pipe.write("".join(lines).encode())
                pipe.flush()
            pipe.close()
        except OSError:  # its process has ended; `_listen` says so
            pass

    def _take(self) -> list[str] | None:
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return None
                self._changed.wait()
            lines = list(self._waiting)
            self._waiting.clear()
            return lines

    def _listen(self) -> None:
        pipe = self._process.stdout
        assert pipe is not None
        for line in pipe:
            self._tell(f"{self.name}: {json.loads(line)['say']}; it is tried again, and training goes on")
        if self._process.wait() and not self._given_up:
            self._tell(f"{self.name}: its process ended with {self._process.returncode}; training goes on without it")


class Feeds:
    """All trackers of a run; none where the manifest names none. Rank 0 only."""

    def __init__(self, feeds: list[Feed] | None = None) -> None:
        self._feeds = feeds or []

    def put(self, record: Mapping[str, Any]) -> None:
        """Hand a record of the history to every tracker; returns at once."""
        for feed in self._feeds:
            feed.put(record)

    def close(self, outcome: Outcome) -> None:
        """Say how the run ended and give the trackers a while to send what they have."""
        until = time.monotonic() + (LAST_WAIT if outcome is Outcome.FINISHED else SHORT_WAIT)
        for feed in self._feeds:
            feed.end(outcome)
        for feed in self._feeds:
            feed.wait(until - time.monotonic())


def open_feeds(chosen: Trackers | None, about: About, tell: Callable[[str], None]) -> Feeds:
    """Start the processes of the trackers that a manifest names."""
    if chosen is None:
        return Feeds()
    named = chosen.model_dump(mode="json", exclude_none=True)
    return Feeds([Feed(name, options, _own(about, name), tell) for name, options in named.items()])


def _own(about: About, name: str) -> About:
    return about.model_copy(update={"folder": Path(about.folder) / name})


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(content) + "\n"
