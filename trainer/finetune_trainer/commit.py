"""Commit the run's state to its log, and bring the newest good commit back."""

from __future__ import annotations

import time
from itertools import chain

from pydantic import BaseModel, ConfigDict

from finetune_trainer.context import RESUMING
from finetune_trainer.engine.snapshot import EngineState, RankSlices, load_rank, merge, save_rank
from finetune_trainer.errors import DataError
from finetune_trainer.metrics import pack, unpack
from finetune_trainer.model.fingerprint import ModelIdentity
from finetune_trainer.run import Run
from finetune_trainer.state import Progress
from finetune_trainer.store import Checkpoint, ObjectRef, read_verified

HISTORY = "history.jsonl.zst"


class Body(BaseModel):
    """The trainer's part of a checkpoint's log entry.

    `model` is what was trained: its frozen weights and its tokenizer are not in the checkpoint. `dataset` is the id of
    the index that `progress.data` counts in; `metrics` holds `evalLoss` where the step was
    evaluated and its loss finite, which is what retention ranks by.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: EngineState
    progress: Progress
    model: ModelIdentity
    dataset: str
    metrics: dict[str, float]


def commit(run: Run) -> None:
    """Store every rank's share, then the log entry that makes the checkpoint exist; collective.

    Raises StorageError on every rank when any rank cannot write; then nothing was committed, nothing is lost.
    """
    started = time.monotonic()
    prefix = run.control.broadcast(run.writer.new_checkpoint(run.progress.step))
    shares = run.control.agree(lambda: _write_share(run, prefix))
    entries = run.control.agree(lambda: _publish(run, prefix, shares) if run.control.is_main else None)
    run.parent = entries[0]
    run.committed = run.progress
    run.last_commit = run.clock()
    stored = sum(ref.size for refs, _ in shares for ref in refs)
    best = run.progress.best is not None and run.progress.best.step == run.progress.step
    run.report_commit(best=best, seconds=time.monotonic() - started, stored=stored)


def _write_share(run: Run, prefix: str) -> tuple[list[ObjectRef], RankSlices]:
    def write(name: str, data: bytes) -> ObjectRef:
        return run.writer.write(prefix, name, data)

    return save_rank(run.engine, run.control.rank, run.control.world_size, write)


def _publish(run: Run, prefix: str, shares: list[tuple[list[ObjectRef], RankSlices]]) -> int:
    """Rank 0: write the log entry, then let go of what retention no longer keeps."""
    if run.dataset.bad is not None:
        run.dataset.bad.flush()
    objects = [ref for refs, _ in shares for ref in refs]
    objects.append(run.writer.write(prefix, HISTORY, pack(run.history.records)))
    loss = run.progress.last_eval if run.progress.last_eval_step == run.progress.step else None
    body = Body(
        engine=merge(run.engine, [slices for _, slices in shares]),
        progress=run.progress,
        model=run.model,
        dataset=run.dataset.id,
        metrics={} if loss is None else {"evalLoss": loss},
    )
    entry = run.writer.commit(run.progress.step, run.parent, objects, body.model_dump(mode="json"))
    keep = run.job.spec.checkpoint
    run.writer.retire(entry, keep_last=keep.keep_last, keep_best=keep.keep_best)
    return entry.seq


def restore(run: Run) -> None:
    """Continue from the newest good commit, if there is one; collective.

    Every object is read and verified, the ranks sharing the work. A damaged commit is quarantined, named in the report,
    and the one before it is tried. Raises DataError when the data or the model changed since the commit.
    """
    while (seq := run.control.broadcast(_newest_good(run))) is not None:
        entry = run.log.journal.checkpoint(seq)
        problems = verify(run, entry)
        if not problems:
            load(run, entry)
            where = f"step {entry.step}, {run.log.uri} log entry {seq}"
            run.report({"kind": "phase", "name": RESUMING, "detail": where, "step": entry.step})
            return
        set_aside(run, entry, problems)


def verify(run: Run, entry: Checkpoint) -> list[str]:
    """What is wrong with a checkpoint's objects; collective, every rank reads its share of them."""
    share = (run.control.rank, run.control.world_size)
    return list(chain.from_iterable(run.control.agree(lambda: run.log.verify(entry, share))))


def set_aside(run: Run, entry: Checkpoint, problems: list[str]) -> None:
    """Quarantine a damaged checkpoint and say so; collective."""
    reason = "; ".join(problems)
    run.report({"kind": "phase", "name": "quarantining a damaged checkpoint", "detail": reason, "damaged": entry.step})
    run.control.agree(lambda: run.writer.quarantine(entry, reason) if run.control.is_main else None)


def load(run: Run, entry: Checkpoint) -> None:
    """Put the state of a verified checkpoint into the engine and the loop; collective. DataError for another model."""
    body = Body.model_validate(entry.body)
    _check_model(run, entry.step, body.model)
    if body.dataset != run.dataset.id:
        raise DataError(
            f"spec.data.train: the files changed since checkpoint step {entry.step} (data set {body.dataset[:12]}, "
            f"now {run.dataset.id[:12]}): put the old files back, or use another metadata.name or spec.checkpoint.uri"
        )
    objects = {ref.key.rsplit("/", 1)[1]: ref for ref in entry.objects}

    def read(name: str) -> bytes:
        return read_verified(run.log.journal.store, objects[name])

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
