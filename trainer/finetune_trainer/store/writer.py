"""The one writer of a run: what it may add to the log and delete, until another claim fences it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from finetune_trainer.errors import StorageError
from finetune_trainer.store.checksums import crc64_hex, crc64nvme
from finetune_trainer.store.entries import Checkpoint, ObjectRef, Pin, Quarantine, Retire, timestamp
from finetune_trainer.store.folders import folder_name, folder_of, writer_of
from finetune_trainer.store.history import History
from finetune_trainer.store.journal import Journal
from finetune_trainer.store.retention import Candidate, to_retire

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Fenced(StorageError):
    """Another writer has claimed the run since; this one must stop and must not be started again."""

    reason = "Fenced"
    retryable: ClassVar[bool] = False


@dataclass(frozen=True)
class Writer:
    """Writes as attempt `attempt` under the id `id` (16 hex digits) of the claim that made it.

    Every rank may build one from the same two values; objects may come from all of them, entries from one at a time.
    Every method that writes an entry raises Fenced once another claim is in the log.
    """

    journal: Journal
    attempt: int
    id: str

    def new_checkpoint(self, step: int) -> str:
        """The key prefix, slash included, of a folder that nobody has used and nobody will use again."""
        return f"{self.journal.data}{folder_name(step, self.attempt, self.id)}/"

    def write(self, prefix: str, name: str, data: Buffer, crc64: int | None = None) -> ObjectRef:
        """Store an object of a checkpoint under `new_checkpoint`'s prefix; durable on return.

        `crc64` is its CRC64NVME, if that is known already.
        """
        checksum = crc64nvme(data) if crc64 is None else crc64
        info = self.journal.store.create(prefix + name, data, crc64=checksum)
        return ObjectRef(info.key, info.size, crc64_hex(checksum))

    def commit(self, step: int, parent: int | None, objects: Iterable[ObjectRef], body: dict[str, Any]) -> Checkpoint:
        """Make the checkpoint of `step` exist: from here on it is found, and its objects are kept.

        `parent` is the seq of the checkpoint that training went on from; `body` must be JSON. ValueError if it is not,
        or if an object is named twice or lies outside the run.
        """
        refs = tuple(sorted(objects, key=lambda ref: ref.key))
        outside = [ref.key for ref in refs if folder_of(self.journal.data, ref.key) is None]
        if outside or len({ref.key for ref in refs}) != len(refs):
            raise ValueError(f"a checkpoint names each of its objects in {self.journal.data} once: {outside or refs}")

        def draft(history: History) -> Checkpoint:
            return Checkpoint(
                **self._head(history),
                step=step,
                parent=parent,
                identity=self.journal.identity().hash,
                objects=refs,
                body=body,
            )

        return self.journal.append(draft)

    def quarantine(self, entry: Checkpoint, reason: str) -> Quarantine:
        """Say that a checkpoint is damaged: it is never loaded again, and its step may be committed again."""
        return self.journal.append(
            lambda history: Quarantine(**self._head(history), target=_live(history, entry), reason=reason[:4096])
        )

    def pin(self, entry: Checkpoint, pinned: bool = True) -> Pin:
        """Keep a checkpoint for ever, or no longer."""
        return self.journal.append(
            lambda history: Pin(**self._head(history), target=_live(history, entry), pinned=pinned)
        )

    def retire(
        self, verified: Checkpoint, *, keep_last: int, keep_best: int = 0, metric: str = "evalLoss"
    ) -> tuple[int, ...]:
        """Give up what retention (finetune_trainer.store.retention) does not keep; returns the seqs given up.

        `verified` must be known to be good: just loaded, checked, or stored by acknowledged checksummed writes. Lower
        values of `body["metrics"][metric]` are better. First the entry is written, then the objects go: a crash between
        the two leaves folders that `orphans` finds. No object that a live checkpoint names is ever deleted.
        """

        def choose(history: History) -> tuple[int, ...]:
            candidates = [self._candidate(history, seq, metric) for seq in history.live]
            return to_retire(candidates, verified=verified.seq, keep_last=keep_last, keep_best=keep_best)

        return self._give_up(choose)

    def discard(self, target: Checkpoint) -> tuple[int, ...]:
        """Give one checkpoint up, whatever retention says of it; returns its seq, or nothing when it is given up.

        StorageError for a pinned one, and for the newest good one, from which the run would go on.
        """

        def choose(history: History) -> tuple[int, ...]:
            if target.seq not in history.live:
                return ()
            if target.seq in history.pinned:
                raise StorageError(f"checkpoint {target.seq} of {self.journal.uri} is pinned: unpin it first")
            if history.good[-1:] == (target.seq,):
                raise StorageError(
                    f"checkpoint {target.seq} of {self.journal.uri} is the newest good one, from which the run goes "
                    "on: it cannot be removed; delete the folder of the run if the whole run is to go"
                )
            return (target.seq,)

        return self._give_up(choose)

    def _give_up(self, choose: Callable[[History], tuple[int, ...]]) -> tuple[int, ...]:
        """First the entry, then the objects of what `choose` names of the newest history."""
        doomed: set[str] = set()

        def draft(history: History) -> Retire | None:
            head = self._head(history)
            targets = choose(history)
            live = tuple(seq for seq in history.live if seq not in targets)
            kept = set(live)
            quarantined, pinned = sorted(history.quarantined & kept), sorted(history.pinned & kept)
            if not targets:
                return None
            doomed.update(folder for seq in targets for folder in self._folders(seq))
            return Retire(**head, targets=targets, live=live, quarantined=tuple(quarantined), pinned=tuple(pinned))

        self.journal.refresh()  # a decision for nothing to do is right only on the newest history
        entry = self.journal.append(draft)
        if entry is None:
            return ()
        self._delete(doomed, entry.live)
        return entry.targets

    def orphans(self) -> list[str]:
        """The folders (key prefixes) that no live checkpoint names: saves and deletions cut short.

        Of fenced writers all of them; of the present one, who may be saving, those of checkpoints that were given up.
        """
        data = self.journal.data
        there = {folder for info in self.journal.store.list(data) if (folder := folder_of(data, info.key))}
        # Only now: a folder that was listed before we still held the claim cannot be a later writer's.
        history = self.journal.refresh()
        self._hold(history)
        named = {folder for seq in history.live for folder in self._folders(seq)}
        left = there - named
        own = {folder for folder in left if writer_of(data, folder) == self.id}
        others = {folder for folder in left - own if writer_of(data, folder) is not None}
        return sorted(others | (own & self._given_up(history) if own else set()))

    def _given_up(self, history: History) -> set[str]:
        """The folders of all checkpoints that are not live any more; reads the whole log."""
        gone = (self.journal.entry(seq) for seq in range(1, history.newest + 1) if seq not in history.live)
        return {folder for entry in gone if isinstance(entry, Checkpoint) for folder in self._folders(entry.seq)}

    def sweep(self) -> list[str]:
        """Delete the orphans, and what killed writers left of single objects; returns the orphans' prefixes."""
        found = self.orphans()
        self._delete(found, self.journal.known().live)
        self.journal.store.discard_unfinished(f"{self.journal.run_id}/")
        return found

    def _head(self, history: History) -> dict[str, Any]:
        """What every entry of ours begins with, after a look whether we may still write."""
        self._hold(history)
        now = timestamp(self.journal.clock())
        return {"seq": history.newest + 1, "attempt": self.attempt, "writer": self.id, "time": now}

    def _hold(self, history: History) -> None:
        if history.writer != self.id:
            raise Fenced(
                f"{self.journal.uri} was claimed by attempt {history.attempt} (writer {history.writer}) after attempt "
                f"{self.attempt} (writer {self.id}), which stops here: two runs of one job write here; let one run"
            )

    def _candidate(self, history: History, seq: int, metric: str) -> Candidate:
        score = self.journal.checkpoint(seq).metric(metric)
        return Candidate(seq, score, pinned=seq in history.pinned, quarantined=seq in history.quarantined)

    def _folders(self, seq: int) -> set[str]:
        keys = (folder_of(self.journal.data, ref.key) for ref in self.journal.checkpoint(seq).objects)
        return {folder for folder in keys if folder is not None}

    def _delete(self, folders: Iterable[str], live: Iterable[int]) -> None:
        """Delete every object in `folders` that no checkpoint in `live` names."""
        named = {ref.key for seq in live for ref in self.journal.checkpoint(seq).objects}
        store = self.journal.store
        for folder in sorted(folders):
            store.delete([info.key for info in store.list(folder) if info.key not in named])


def _live(history: History, entry: Checkpoint) -> int:
    """The entry's seq, if its objects are still kept."""
    if entry.seq not in history.live:
        raise StorageError(f"checkpoint {entry.seq} (step {entry.step}) is retired: name one that is still kept")
    return entry.seq
