"""The entries of one run's log: read lazily, checked, and appended by create-only writes, so that history is linear."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TypeVar

from finetune_trainer.errors import StorageError
from finetune_trainer.store.entries import (
    MAX_ENTRY_BYTES,
    REMEDY,
    Checkpoint,
    Claim,
    Entry,
    Identity,
    Retire,
    decode,
    encode,
    is_sealed,
)
from finetune_trainer.store.history import History, fold
from finetune_trainer.store.objects import ObjectExists, ObjectNotFound, ObjectStore, check_key

NAME = re.compile(r"[0-9]{12}\.json")
E = TypeVar("E", bound=Entry | None)


class Journal:
    """The log `<run id>/log/<seq, 12 digits>.json` in a store. Entries never change and are read once.

    At the start one listing and the entries since the last `retire` entry are read; later only what is new.
    """

    def __init__(self, store: ObjectStore, run_id: str, clock: Callable[[], float] = time.time) -> None:
        check_key(run_id, store.uri)
        if "/" in run_id:
            raise StorageError(f"the run id {run_id!r} has a slash: write one name")
        self.store = store
        self.run_id = run_id
        self.clock = clock
        self._entries: dict[int, Entry] = {}
        self._history: History | None = None

    @property
    def uri(self) -> str:
        """The address of the run's folder."""
        return f"{self.store.uri}/{self.run_id}"

    @property
    def data(self) -> str:
        """The key that every object of the run's checkpoints begins with."""
        return f"{self.run_id}/data/"

    def key(self, seq: int) -> str:
        """The key of an entry."""
        return f"{self.run_id}/log/{seq:012d}.json"

    def known(self) -> History:
        """The history as last seen, which others may have gone on from."""
        return self._load() if self._history is None else self._history

    def refresh(self) -> History:
        """The history with every entry there is by now."""
        history = self.known()
        while (entry := self._read(history.newest + 1)) is not None:
            history = self._advance(history, entry)
        return history

    def entry(self, seq: int) -> Entry:
        """The entry `seq` of those there are; StorageError naming its key if it is missing or damaged."""
        found = self._entries.get(seq) or self._read(seq)
        if found is None:
            raise StorageError(
                f"{self.store.uri}/{self.key(seq)} is missing though later log entries are there: {REMEDY}"
            )
        return found

    def checkpoint(self, seq: int) -> Checkpoint:
        """The checkpoint entry `seq`; StorageError if it is another kind of entry."""
        entry = self.entry(seq)
        if not isinstance(entry, Checkpoint):
            raise StorageError(f"{self.store.uri}/{self.key(seq)} is a {entry.kind} entry where a checkpoint should be")
        return entry

    def identity(self) -> Identity:
        """The run's identity, from the claim that began the log."""
        return self.first().identity

    def first(self) -> Claim:
        """The claim that began the log, of a log that has begun."""
        first = self.entry(1)
        if not isinstance(first, Claim):
            raise StorageError(f"{self.store.uri}/{self.key(1)} is a {first.kind} entry, a log begins with a claim")
        return first

    def append(self, draft: Callable[[History], E]) -> E:
        """Store the entry that `draft` makes of the newest history, as its successor; None if it makes none.

        Where another writer was faster, `draft` is asked again with what that one wrote; it raises to give up.
        """
        history = self.known()
        while (entry := draft(history)) is not None:
            try:
                self.store.create(self.key(entry.seq), encode(entry))
            except ObjectExists:
                newer = self.refresh()
                if newer.newest == history.newest:
                    raise
                history = newer
                continue
            self._entries[entry.seq] = entry
            self._advance(history, entry)
            return entry
        return entry

    def _load(self) -> History:
        folder = f"{self.run_id}/log/"
        names = [info.key.removeprefix(folder) for info in self.store.list(folder, recursive=False)]
        seqs = {int(name[:12]) for name in names if NAME.fullmatch(name)} - {0}
        newest = max(seqs, default=0)
        for seq in sorted(set(range(1, newest)) - seqs):
            self.entry(seq)  # a listing may miss one that is written meanwhile; a real gap raises here
        tail: list[Entry] = []
        while newest > len(tail) and not (tail and isinstance(tail[-1], Retire)):
            tail.append(self.entry(newest - len(tail)))
        self._history = fold(tail[::-1])
        return self._history

    def _read(self, seq: int) -> Entry | None:
        name = f"{self.store.uri}/{self.key(seq)}"
        try:
            data = self._bytes(seq)
            # A damaged read may be the network's fault: what counts is what the second one brings.
            entry = decode(data if is_sealed(data) else self._bytes(seq), name)
        except ObjectNotFound:
            return None
        if entry.seq != seq:
            raise StorageError(f"{name} says it is entry {entry.seq}: it was copied or renamed; restore the right one")
        self._entries[seq] = entry
        return entry

    def _bytes(self, seq: int) -> bytes:
        return self.store.get(self.key(seq), 0, MAX_ENTRY_BYTES + 1)

    def _advance(self, history: History, entry: Entry) -> History:
        self._history = history.after(entry)
        for seq in set(history.live) - set(self._history.live):
            self._entries.pop(seq, None)  # retired: never asked for again
        return self._history
