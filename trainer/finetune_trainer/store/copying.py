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

    `copied` is told of each. The commit keeps step, identity and body, and its claim says where it came from. A copy
    that was cut short leaves objects that nobody finds, and may be made again. StorageError when `target` holds a run
    of its own already, or an object is damaged.
    """
    history = target.history()
    if history.live:
        raise StorageError(f"{target.uri} holds checkpoints already: write another place")
    info = {"copiedFrom": f"{source.uri} log entry {entry.seq}"}
    writer = target.claim(source.journal.identity(), info=dict(info))
    prefix = writer.new_checkpoint(entry.step)
    refs = []
    for ref in entry.objects:
        refs.append(_copy(source, ref, writer, prefix))
        copied(ref)
    return writer.commit(entry.step, None, refs, dict(entry.body))


def _copy(source: RunLog, ref: ObjectRef, writer: Writer, prefix: str) -> ObjectRef:
    return writer.write(prefix, ref.key.rsplit("/", 1)[1], read_verified(source.journal.store, ref))
