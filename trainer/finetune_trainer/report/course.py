"""The course of a run, by its commit log: every start, every checkpoint, over all attempts."""

from __future__ import annotations

from finetune_trainer.report.data import Event
from finetune_trainer.store import Checkpoint, Claim, Entry, Quarantine, RunLog, open_store

MOST_ENTRIES = 2000
"""Entries of the log that are read, from the newest back."""


class Course:
    """What the log of `run_id` in the store at `uri` says. For one thread at a time.

    Of what was read before, only the entries since the newest `retire` entry are read again.
    """

    def __init__(self, uri: str, run_id: str) -> None:
        self._uri = uri
        self._run_id = run_id
        self._known: dict[int, Event | None] = {}

    def events(self) -> tuple[Event, ...]:
        """Every event so far, oldest first. Raises StorageError when the log cannot be read."""
        log = RunLog(open_store(self._uri), self._run_id)  # of its own: a log is read by one thread
        newest = log.history().newest
        for seq in range(newest, max(0, newest - MOST_ENTRIES), -1):
            if seq in self._known:
                break
            self._known[seq] = _event(log.journal.entry(seq))
        return tuple(event for _, event in sorted(self._known.items()) if event is not None)


def _event(entry: Entry) -> Event | None:
    at = {"time": entry.time.timestamp(), "attempt": entry.attempt}
    match entry:
        case Claim():
            return Event(kind="start", **at)
        case Checkpoint():
            return Event(kind="checkpoint", step=entry.step, bytes=sum(ref.size for ref in entry.objects), **at)
        case Quarantine():
            return Event(kind="damaged", **at)
        case _:
            return None
