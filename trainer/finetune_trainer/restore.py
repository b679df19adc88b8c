"""Bring the newest good commit back, from the store or from what the ranks of an earlier start left in memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from finetune_trainer.commit import HISTORY, Body
from finetune_trainer.context import RESUMING
from finetune_trainer.data import other_labels
from finetune_trainer.engine.load import fill, take_over
from finetune_trainer.errors import DataError
from finetune_trainer.leftovers import commit_left_in_memory
from finetune_trainer.metrics import Record, unpack
from finetune_trainer.model.fingerprint import ModelIdentity
from finetune_trainer.run import Run
from finetune_trainer.source import CheckpointSource
from finetune_trainer.staged import StagedShare, find_staged, forget_staged
from finetune_trainer.starting_point import LABELS
from finetune_trainer.store import Checkpoint, CorruptObject


def restore(run: Run) -> None:
    """Continue from the newest good commit, if there is one; collective.

    What ranks of an earlier start left in the memory of these nodes is committed first, where it is newer, and read
    there. Every rank verifies what it reads. A damaged commit is quarantined, named in the report, and the one before
    it is tried; the last one that there is is verified as a whole before the engine is touched, which could not be
    made new. Raises DataError when the data or the model changed since the commit, CorruptObject when none is left
    and the engine holds a part of one: the next start begins anew.
    """
    spoiled: list[str] = []
    memory = find_staged(run.context.staging)
    commit_left_in_memory(run, memory)
    while good := run.control.broadcast(run.log.history().good if run.control.is_main else None):
        entry = run.log.journal.checkpoint(good[-1])
        problems = [] if len(good) > 1 or in_memory(run, entry, memory) else verify(run, entry)
        if not problems:
            spoiled = problems = load(run, entry, memory)
        if not problems:
            where = f"step {entry.step}, {run.log.uri} log entry {entry.seq}"
            run.report({"kind": "phase", "name": RESUMING, "detail": where, "step": entry.step})
            break
        set_aside(run, entry, problems)
    if spoiled:
        raise CorruptObject(f"no checkpoint is left to go on from; run it again, from the beginning: {spoiled[0]}")
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


def load(run: Run, entry: Checkpoint, memory: Sequence[StagedShare] = ()) -> list[str]:
    """Put the state of a checkpoint into the engine and the loop; collective. DataError for another model
    or other labels.

    Each rank reads and verifies what it needs, out of `memory` where that holds it. Returns what is damaged of it: then
    the engine holds neither this state nor the one before, and the loop's is as it was.
    """
    body = Body.model_validate(entry.body)
    _check_model(run, entry.step, body.model)
    _check_labels(run, entry.step, body.labels)
    if body.dataset != run.dataset.id:
        raise DataError(
            f"spec.data.train: the files changed since checkpoint step {entry.step} (data set {body.dataset[:12]}, "
            f"now {run.dataset.id[:12]}): put the old files back, or use another metadata.name or spec.checkpoint.uri"
        )
    source = CheckpointSource(run.log.journal.store, entry, memory)
    place = (run.control.rank, run.control.world_size)

    random_numbers: bytes | None = None
    history: list[Record] = []

    def read() -> str:
        nonlocal random_numbers, history
        try:
            random_numbers = fill(run.engine, body.engine, *place, source)
            history = unpack(source.whole(HISTORY)) if run.control.is_main else []
        except CorruptObject as error:
            return str(error)
        return ""

    if problems := [problem for problem in run.control.agree(read) if problem]:
        return problems
    take_over(run.engine, random_numbers)
    run.progress = run.committed = body.progress
    run.parent = entry.seq
    if run.control.is_main:
        run.history.replace(history)
    return []


def _check_labels(run: Run, step: int, then: Sequence[str] | None) -> None:
    """A score stands for a label by its place alone."""
    now = run.dataset.labels
    if then is not None and now is not None and (found := other_labels(then, now.names)):
        raise DataError(
            f"{LABELS}: those of this start are {found}, and checkpoint step {step} was trained with "
            f"{', '.join(then)}: put the old files of spec.data.train back, or start a new run by another "
            "metadata.name or spec.checkpoint.uri"
        )


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
