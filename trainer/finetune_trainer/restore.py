"""Bring the newest good commit back, from the store or from what the ranks of an earlier start left in memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from finetune_trainer.commit import HISTORY, Body
from finetune_trainer.context import RESUMING
from finetune_trainer.engine.snapshot import load_rank
from finetune_trainer.errors import DataError
from finetune_trainer.leftovers import commit_left_in_memory
from finetune_trainer.metrics import unpack
from finetune_trainer.model.fingerprint import ModelIdentity
from finetune_trainer.run import Run
from finetune_trainer.staged import StagedShare, find_staged, forget_staged
from finetune_trainer.store import Checkpoint, read_verified


def restore(run: Run) -> None:
    """Continue from the newest good commit, if there is one; collective.

    Every object is read and verified, the ranks sharing the work. A damaged commit is quarantined, named in the report,
    and the one before it is tried. What ranks of an earlier start left in the memory of these nodes is committed first,
    where it is newer, and read from there. Raises DataError when the data or the model changed since the commit.
    """
    memory = find_staged(run.context.staging)
    commit_left_in_memory(run, memory)
    while (seq := run.control.broadcast(_newest_good(run))) is not None:
        entry = run.log.journal.checkpoint(seq)
        problems = [] if in_memory(run, entry, memory) else verify(run, entry)
        if not problems:
            load(run, entry, memory)
            where = f"step {entry.step}, {run.log.uri} log entry {seq}"
            run.report({"kind": "phase", "name": RESUMING, "detail": where, "step": entry.step})
            break
        set_aside(run, entry, problems)
    run.control.barrier()  # every rank has read what it needs
    if run.context.local_rank == 0:
        forget_staged(run.context.staging)


def in_memory(run: Run, entry: Checkpoint, memory: Sequence[StagedShare]) -> bool:
    """Whether the nodes' memory holds all of a checkpoint, as it was when the store acknowledged it; collective."""
    held = [any(share.holds(ref) for share in memory) for ref in entry.objects]
    return all(count > 0 for count in run.control.sum(held))


def verify(run: Run, entry: Checkpoint) -> list[str]:
    """What is wrong with a checkpoint's objects; collective, every rank reads its share of them."""
    share = (run.control.rank, run.control.world_size)
    return list(chain.from_iterable(run.control.agree(lambda: run.log.verify(entry, share))))


def set_aside(run: Run, entry: Checkpoint, problems: list[str]) -> None:
    """Quarantine a damaged checkpoint and say so; collective."""
    reason = "; ".join(problems)
    run.report({"kind": "phase", "name": "quarantining a damaged checkpoint", "detail": reason, "damaged": entry.step})
    run.control.agree(lambda: run.writer.quarantine(entry, reason) if run.control.is_main else None)


def load(run: Run, entry: Checkpoint, memory: Sequence[StagedShare] = ()) -> None:
    """Put the state of a verified checkpoint into the engine and the loop; collective. DataError for another model.

    Objects that `memory` holds are not read from the store.
    """
    body = Body.model_validate(entry.body)
    _check_model(run, entry.step, body.model)
    if body.dataset != run.dataset.id:
        raise DataError(
            f"spec.data.train: the files changed since checkpoint step {entry.step} (data set {body.dataset[:12]}, "
            f"now {run.dataset.id[:12]}): put the old files back, or use another metadata.name or spec.checkpoint.uri"
        )
    objects = {ref.key.rsplit("/", 1)[1]: ref for ref in entry.objects}

    def read(name: str) -> bytes:
        near = next((data for share in memory if (data := share.read(objects[name])) is not None), None)
        return read_verified(run.log.journal.store, objects[name]) if near is None else near

    load_rank(run.engine, body.engine, run.control.rank, run.control.world_size, read)
    run.progress = run.committed = body.progress
    run.parent = entry.seq
    if run.control.is_main:
        run.history.replace(unpack(read(HISTORY)))


def _check_model(run: Run, step: int, then: ModelIdentity) -> None:
    """Adapters fit only the weights they were trained on, and rows are packed from the tokens of one tokenizer."""
    now = run.model
    pairs = (("configuration or weights", then.weights, now.weights), ("tokenizer", then.tokenizer, now.tokenizer))
    changed = " and the ".join(what for what, old, new in pairs if old != new)
    if changed:
        moved = f" (commit {then.revision} then, {now.revision} now)" if then.revision != now.revision else ""
        raise DataError(
            f"spec.model.uri: the {changed} of {run.job.spec.model.uri} changed since checkpoint step {step}{moved}: "
            "put the old files and spec.model.chatTemplate back, or start a new run by another metadata.name or "
            "spec.checkpoint.uri; an hf:// address with a commit, hf://org/name@commit, never changes"
        )


def _newest_good(run: Run) -> int | None:
    if not run.control.is_main:
        return None
    good = run.log.history().good
    return good[-1] if good else None
