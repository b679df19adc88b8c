"""A run's commit log: who may write, which checkpoints exist, and which of them is the newest whole one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from finetune_trainer.errors import SpecError, StorageError
from finetune_trainer.store.entries import Checkpoint, Claim, Entry, Identity, timestamp
from finetune_trainer.store.folders import new_writer_id
from finetune_trainer.store.history import History
from finetune_trainer.store.identity import differences
from finetune_trainer.store.journal import Journal
from finetune_trainer.store.objects import ObjectStore
from finetune_trainer.store.verify import find_problems
from finetune_trainer.store.writer import Fenced, Writer


@dataclass(frozen=True)
class Damaged:
    """A checkpoint that cannot be loaded, and what is wrong with its objects."""

    entry: Checkpoint
    problems: tuple[str, ...]


@dataclass(frozen=True)
class LatestGood:
    """The newest whole checkpoint, None if there is none, and the damaged ones above it, newest first."""

    entry: Checkpoint | None
    damaged: tuple[Damaged, ...]


class RunLog:
    """The log of the run `run_id` in `store`; entries are numbered from 1, and their order is the run's history.

    Reading needs no claim. `clock` gives Unix time in seconds. Every method raises StorageError naming the key of a
    missing, damaged or newer entry.
    """

    def __init__(self, store: ObjectStore, run_id: str, clock: Callable[[], float] = time.time) -> None:
        self.journal = Journal(store, run_id, clock)

    @property
    def uri(self) -> str:
        """The address of the run's folder."""
        return self.journal.uri

    def entries(self) -> list[Entry]:
        """Every entry from the first to the newest; reads all of them, which the trainer itself never needs."""
        return [self.journal.entry(seq) for seq in range(1, self.journal.refresh().newest + 1)]

    def history(self) -> History:
        """What the log says in sum, at this moment."""
        return self.journal.refresh()

    def checkpoints(self) -> list[Checkpoint]:
        """The committed checkpoints that are neither quarantined nor retired, newest last."""
        return [self.journal.checkpoint(seq) for seq in self.journal.refresh().good]

    def best(self, metric: str = "evalLoss") -> Checkpoint | None:
        """That of `checkpoints` with the lowest `body["metrics"][metric]`, of equals the newer; None if none has it."""
        scored = [(value, -one.seq, one) for one in self.checkpoints() if (value := one.metric(metric)) is not None]
        return min(scored, key=lambda found: found[:2])[2] if scored else None

    def claim(self, identity: Identity, attempt: int | None = None, info: dict[str, Any] | None = None) -> Writer:
        """Take the run over: every earlier writer is fenced. `info` is JSON that the claim keeps.

        `attempt` None is the newest plus one (a run without an operator); the newest itself is a restart within it.
        SpecError names the fields that differ from the run in this place; Fenced if a later attempt has claimed it.
        """
        writer = new_writer_id()

        def draft(history: History) -> Claim:
            number = _attempt(history, attempt, self.uri)
            if history.newest and (problems := differences(self.journal.identity(), identity, self.uri)):
                raise SpecError(problems)
            now = timestamp(self.journal.clock())
            seq = history.newest + 1
            return Claim(seq=seq, attempt=number, writer=writer, time=now, identity=identity, info=info or {})

        claimed = self.journal.append(draft)
        return self.writer(claimed.attempt, writer)

    def writer(self, attempt: int, writer_id: str) -> Writer:
        """The writer of a claim that was made elsewhere, for instance by rank 0."""
        return Writer(self.journal, attempt, writer_id)

    def editor(self) -> Writer:
        """A writer beside the one that holds the claim, for people who pin, quarantine or give up a checkpoint.

        It writes in the holder's name and claims nothing, so that a run that trains goes on: whoever of the two finds
        its place in the log taken reads what the other wrote and decides again. StorageError where no run is.
        """
        history = self.journal.refresh()
        if not history.newest:
            raise StorageError(f"there is no run in {self.uri}: write the folder that holds `log/`, or a manifest")
        return self.writer(history.attempt, history.writer)

    def verify(self, entry: Checkpoint, part: tuple[int, int] = (0, 1)) -> list[str]:
        """What is wrong with the objects of share i of n (`part`), reading every byte of it; none if all are whole."""
        index, count = part
        return find_problems(self.journal.store, entry.objects[index::count])

    def latest_good(self, check: Callable[[Checkpoint], list[str]] | None = None) -> LatestGood:
        """Walk back to the newest checkpoint in which `check` (default: `verify`) finds no problem.

        Nothing is written: the caller quarantines the damaged ones through its writer.
        """
        damaged: list[Damaged] = []
        for entry in reversed(self.checkpoints()):
            problems = (check or self.verify)(entry)
            if not problems:
                return LatestGood(entry, tuple(damaged))
            damaged.append(Damaged(entry, tuple(problems)))
        return LatestGood(None, tuple(damaged))


def _attempt(history: History, asked: int | None, place: str) -> int:
    """The number of a new claim's attempt; Fenced if it is older than the newest one."""
    if asked is None:
        return history.attempt + 1
    if history.newest and asked < history.attempt:
        raise Fenced(f"{place} belongs to attempt {history.attempt}: attempt {asked} is older and must end")
    return asked
