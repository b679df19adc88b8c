"""A run with small checkpoints, and ways to damage them: for tests of the commit log."""

from __future__ import annotations

from finetune_trainer.store import Checkpoint, Identity, ObjectRef, ObjectStore, RunLog, Writer, open_store

ME = Identity(hash="0" * 64, fields={"spec.training.seed": 0, "spec.method.type": "Full"})


def save(writer: Writer, step: int, parent: Checkpoint | None = None, loss: float | None = None) -> Checkpoint:
    """Write two objects and commit them as the checkpoint of `step`, with `loss` as its held-out loss."""
    folder = writer.new_checkpoint(step)
    objects = [writer.write(folder, f"rank{rank}/state", f"{step} {rank} ".encode() * 200) for rank in range(2)]
    body = {"step": step, "metrics": {"evalLoss": loss}}
    return writer.commit(step, None if parent is None else parent.seq, objects, body)


def reopened(log: RunLog) -> RunLog:
    """The same log as another process finds it."""
    return RunLog(open_store(log.journal.store.uri), log.journal.run_id)


def damage(store: ObjectStore, ref: ObjectRef, how: str) -> None:
    """Make a stored object flipped, truncated, grown or missing."""
    data = bytearray(store.get(ref.key))
    store.delete([ref.key])
    if how == "flipped":
        data[len(data) // 2] ^= 0x10
        store.create(ref.key, data)
    elif how == "truncated":
        store.create(ref.key, data[:-1])
    elif how == "grown":
        store.create(ref.key, bytes(data) + b"\0")
