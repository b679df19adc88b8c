"""What the log says in sum: who may write, and which checkpoints hold. Pure functions over entries."""

from __future__ import annotations

from dataclasses import dataclass, replace

from finetune_trainer.errors import StorageError
from finetune_trainer.store.entries import Checkpoint, Claim, Entry, Pin, Quarantine, Retire


@dataclass(frozen=True)
class History:
    """The log up to the entry `newest` (0: an empty log), whose last claim is by `writer` as `attempt`.

    `live` are the seqs of the checkpoints whose objects must be there, oldest first; of these, `quarantined` ones are
    known to be damaged and `pinned` ones are kept.
    """

    newest: int = 0
    attempt: int = 0
    writer: str = ""
    live: tuple[int, ...] = ()
    quarantined: frozenset[int] = frozenset()
    pinned: frozenset[int] = frozenset()

    @property
    def good(self) -> tuple[int, ...]:
        """The seqs of the checkpoints that may be loaded, oldest first."""
        return tuple(seq for seq in self.live if seq not in self.quarantined)

    def after(self, entry: Entry) -> History:
        """The history with one more entry; StorageError for an entry that no honoured conditional write can bring."""
        if entry.seq != self.newest + 1:
            raise StorageError(f"log entry {entry.seq} does not follow {self.newest}: the log has been altered")
        if not isinstance(entry, Claim) and entry.writer != self.writer:
            raise StorageError(
                f"log entry {entry.seq} is by writer {entry.writer}, but {self.writer or 'nobody'} holds the claim: "
                "the store does not honour conditional writes, or the log has been altered"
            )
        now = replace(self, newest=entry.seq, attempt=entry.attempt, writer=entry.writer)
        match entry:
            case Checkpoint():
                return replace(now, live=(*self.live, entry.seq))
            case Quarantine():
                return replace(now, quarantined=self.quarantined | {entry.target})
            case Pin():
                changed = self.pinned | {entry.target} if entry.pinned else self.pinned - {entry.target}
                return replace(now, pinned=changed)
            case Retire():
                return _behind(entry)
            case Claim():
                return now


def _behind(entry: Retire) -> History:
    """What holds behind a `retire` entry, by its own words."""
    return History(
        newest=entry.seq,
        attempt=entry.attempt,
        writer=entry.writer,
        live=entry.live,
        quarantined=frozenset(entry.quarantined),
        pinned=frozenset(entry.pinned),
    )


def fold(entries: list[Entry]) -> History:
    """The history of consecutive entries that begin with the log's first one or with a `retire` entry."""
    history = History()
    for index, entry in enumerate(entries):
        history = _behind(entry) if index == 0 and isinstance(entry, Retire) else history.after(entry)
    return history
