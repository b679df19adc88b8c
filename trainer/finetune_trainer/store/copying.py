"""Copies one checkpoint to another place, as a run with this one commit; the log entry comes last."""

from __future__ import annotations

from collections.abc import Callable

from finetune_trainer.errors import StorageError
from finetune_trainer.store.entries import Checkpoint, ObjectRef
from finetune_trainer.store.log import RunLog
from finetune_trainer.store.verify import read_verified
from finetune_trainer.store.writer import Writer


def copy_checkpoint(
    source: RunLog, entry: Checkpoint, target: RunLog, copied: Callable[[ObjectRef], object] = lambda ref: None
) -> Checkpoint:
    """Copy `entry` of `source` with all its objects, each verified on its way, one at a time in memory.

    `copied` is told of each. The commit keeps step, identity and body; its claim keeps what the run's first one says,
    and where it was copied from. It is of attempt 0, so that it fences no run and any may go on from it. A copy that
    was cut short leaves objects that nobody finds, and may be made again. StorageError when a run has begun at
    `target`, or an object is damaged.
    """
    history = target.history()
    if history.live or history.attempt > 0:
        raise StorageError(f"a run has begun in {target.uri} already: write another place")
    if entry.seq in source.history().quarantined:
        raise StorageError(f"checkpoint {entry.seq} of {source.uri} is quarantined: name a good one")
    info = {**source.journal.first().info, "copiedFrom": f"{source.uri} log entry {entry.seq}"}
    writer = target.claim(source.journal.identity(), attempt=0, info=info)
    prefix = writer.new_checkpoint(entry.step)
    refs = []
    for ref in entry.objects:
        refs.append(_copy(source, ref, writer, prefix))
        copied(ref)
    return writer.commit(entry.step, None, refs, dict(entry.body))


def _copy(source: RunLog, ref: ObjectRef, writer: Writer, prefix: str) -> ObjectRef:
    return writer.write(prefix, ref.name, read_verified(source.journal.store, ref))
