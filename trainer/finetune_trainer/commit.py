"""Commit the run's state to its log, in the background."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from finetune_trainer.engine.share import Share, capture
from finetune_trainer.engine.snapshot import EngineState, merge
from finetune_trainer.errors import StorageError
from finetune_trainer.metrics import Record, pack
from finetune_trainer.model.fingerprint import ModelIdentity
from finetune_trainer.run import Run
from finetune_trainer.saving import Saved
from finetune_trainer.shares import StoredShare
from finetune_trainer.staged import Draft
from finetune_trainer.state import Progress
from finetune_trainer.store import Checkpoint

HISTORY = "history.jsonl.zst"
NOTICEABLE = 1.0
"""Seconds of waiting for the save before that are worth a message."""


class Body(BaseModel):
    """The trainer's part of a checkpoint's log entry.

    `model` is what was trained: its frozen weights and its tokenizer are not in the checkpoint. `dataset` is the id of
    the index that `progress.data` counts in; `metrics` holds `evalLoss` where the step was
    evaluated and its loss finite, which is what retention ranks by. `labels`: a classifier's, by id, for which its
    scores stand; None for others, and in what older trainers wrote.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: EngineState
    progress: Progress
    model: ModelIdentity
    dataset: str
    metrics: dict[str, float]
    labels: tuple[str, ...] | None = None


def commit(run: Run) -> None:
    """Begin to store every rank's share, and the log entry that makes the checkpoint exist; collective.

    Returns when the state is known, not stored: `train_step` waits until it is copied before it changes it, and
    `acknowledge` has the outcome. A save that still goes on is waited for first, so that none is left out.
    """
    if run.saves.in_flight:
        _wait_for_the_one_before(run)
    started = time.monotonic()
    prefix = run.control.broadcast(run.writer.new_checkpoint(run.progress.step))
    share = capture(run.engine, run.control.rank, run.control.world_size)
    records = list(run.history.records) if run.control.is_main else []
    draft = _draft(run, share)
    run.saves.begin(lambda copied: _save(run, prefix, share, draft, records, copied, started))
    run.saving = run.progress
    run.last_commit = run.clock()


def acknowledge(run: Run) -> None:
    """Take the outcome of the save that goes on, waiting for it; collective.

    Raises StorageError on every rank when any rank could not write; then nothing was committed, nothing is lost.
    """
    ended = run.saves.take(run.pulse("storing a checkpoint", "looks"))
    run.saving = None
    saved = ended.result
    run.parent = saved.seq
    run.committed = saved.progress
    run.report_commit(saved, ended.waited)
    if not saved.copied:
        run.say_once(
            "saving without a copy",
            "there is not enough memory for a copy of the training state: training waits until each checkpoint is "
            "stored; give the workers more memory (spec.workers.resources.memory) or save less often",
        )


def _wait_for_the_one_before(run: Run) -> None:
    started = time.monotonic()
    step = run.saving.step if run.saving is not None else 0
    acknowledge(run)
    waited = time.monotonic() - started
    if waited > NOTICEABLE:
        run.say_once(
            "waiting for the checkpoint store",
            f"step {run.progress.step} waited {waited:.1f} s until the checkpoint of step {step} was stored: they are "
            "due more often than the store takes them; raise spec.checkpoint.everySteps or everySeconds",
        )


def _draft(run: Run, share: Share) -> Draft:
    loss = run.progress.last_eval if run.progress.last_eval_step == run.progress.step else None
    return Draft(
        origin=run.log.journal.first().writer if run.control.is_main else "",
        step=run.progress.step,
        parent=run.parent,
        zero_stage=share.zero_stage,
        optimizer_steps=share.optimizer_steps,
        progress=run.progress,
        model=run.model,
        dataset=run.dataset.id,
        metrics={} if loss is None else {"evalLoss": loss},
        labels=run.dataset.labels.names if run.dataset.labels is not None else None,
    )


def _save(
    run: Run,
    prefix: str,
    share: Share,
    draft: Draft,
    records: Sequence[Record],
    copied: threading.Event,
    started: float,
) -> Saved:
    """What the background does: every rank writes its share, rank 0 then the entry."""

    def write() -> StoredShare:
        more = {HISTORY: pack(records)} if run.control.is_main else {}
        return run.stage.store(run.writer, prefix, share, more, draft, copied)

    shares = run.saving_group.agree(write)
    entry = run.saving_group.agree(lambda: publish(run, draft, shares) if run.control.is_main else None)[0]
    assert entry is not None
    stored = sum(ref.size for one in shares for ref in one.refs)
    copied_all = all(one.copied for one in shares)
    return Saved(entry, draft.progress, stored, time.monotonic() - started, copied_all)


def publish(run: Run, draft: Draft, shares: Sequence[StoredShare]) -> int:
    """Rank 0: write the log entry, then let go of what retention no longer keeps; returns the entry's seq.

    What was committed counts, also where the store does not delete what is old.
    """
    if run.dataset.bad is not None:
        run.dataset.bad.flush()
    body = Body(
        engine=merge([one.slices for one in shares], draft.zero_stage, draft.optimizer_steps),
        progress=draft.progress,
        model=draft.model,
        dataset=draft.dataset,
        metrics=draft.metrics,
        labels=draft.labels,
    )
    objects = [ref for one in shares for ref in one.refs]
    unsaid = {"labels"} if body.labels is None else None  # an entry without any is one that older trainers read
    entry = run.writer.commit(draft.step, draft.parent, objects, body.model_dump(mode="json", exclude=unsaid))
    _retire(run, entry)
    return entry.seq


def _retire(run: Run, entry: Checkpoint) -> None:
    """Let go of what retention no longer keeps; what a busy store does not delete now, a later sweep does."""
    keep = run.job.spec.checkpoint
    try:
        run.writer.retire(entry, keep_last=keep.keep_last, keep_best=keep.keep_best)
    except StorageError as error:
        if not error.retryable:
            raise
        run.say_once("keeping old checkpoints", f"{error}; training goes on: the next start removes what is left")
