"""The training loop: build the run, train step by step, commit, export. Knows nothing of Ray or Kubernetes."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from itertools import islice
from typing import Any

from finetune_trainer.begin import begin
from finetune_trainer.build import build
from finetune_trainer.commit import acknowledge, commit
from finetune_trainer.context import RunContext
from finetune_trainer.data import StepBatch
from finetune_trainer.engine.schedule import learning_rate_factor
from finetune_trainer.engine.step import Hooks, StepResult, train_step
from finetune_trainer.errors import FinetuneError, Stopped
from finetune_trainer.evaluate import evaluate
from finetune_trainer.evaluation.report import contamination_of
from finetune_trainer.finish import finish
from finetune_trainer.reporting import refresh, store_audit
from finetune_trainer.restore import restore
from finetune_trainer.run import Run, StepTimes
from finetune_trainer.spec import FineTuneJob
from finetune_trainer.state import Progress, commit_due, finite, out_of_patience


class Diverged(FinetuneError):
    """The loss or a gradient was not finite more often than `spec.training.maxSkippedSteps` allows."""

    reason = "Diverged"
    retryable = False


def train(job: FineTuneJob, context: RunContext) -> dict[str, Any]:
    """Run `job` to its end on this rank, from its newest good checkpoint if there is one, else from that of another run
    if it names one; collective over all ranks.

    Returns the same JSON-able result on every rank (`finish.finish` documents it). Raises a FinetuneError, whose exit
    code is the contract with launchers; Stopped when a stop was asked for, after a commit of what was trained.
    """
    with build(job, context) as run:
        restore(run)
        if run.committed is None:
            begin(run)
        if not run.progress.finished:
            between = waiting(run, "computing reference log-probabilities")
            run.begin_objective(between, fresh=run.progress.step == 0)
            fit(run)
        run.dataset.forget()
        return finish(run)


def fit(run: Run) -> None:
    """Train until the epochs or steps are done or the patience is over, then commit the finished state."""
    leave_if_asked(run)
    compare_later(run)
    store_audit(run)
    refresh(run)
    with closing(upcoming(run)) as batches:
        while settle(run) and (arrival := wait_for(batches)) is not None:
            if take_step(run, *arrival):
                leave_if_asked(run)
    if run.dataset.held_out and run.progress.last_eval_step != run.progress.step:
        measure(run)
    run.progress = run.progress.model_copy(update={"finished": True})
    commit(run)
    acknowledge(run)


def compare_later(run: Run) -> None:
    """Before the first step: refuse what cannot be compared, and measure what the trained model is compared with.

    What a start behind it needs of that is read again.
    """
    if run.progress.step == 0:
        run.comparison.prepare()
        run.comparison.begin(waiting(run, "evaluating the model before training"))
        run.report_contamination()
    else:
        run.comparison.recall()
    run.audit["contamination"] = contamination_of(run.comparison.before)


def waiting(run: Run, name: str) -> Callable[[], None]:
    """What is called between the batches of an evaluation: leaves if asked to, and shows that the run lives."""
    pulse = run.pulse(name, "micro-batches")

    def between_batches() -> None:
        leave_if_asked(run)
        pulse()

    return between_batches


def settle(run: Run) -> bool:
    """Evaluate and commit what is due at the current step; returns whether to train on.

    The model before the first step, and after a resume what a stop or a crash left undone, are due like the rest.
    """
    if run.progress.consumed >= 1.0:
        return False  # evaluated and committed once, by `fit`
    evaluating = run.evaluation_due()
    improved = evaluating and measure(run)
    due = run.commit_voted or commit_due(run.progress, run.job.spec.checkpoint, improved=improved)
    if due and run.uncommitted():
        commit(run)
    if evaluating or due:
        refresh(run)
    if evaluating:
        leave_if_asked(run)
    return not out_of_patience(run.progress, run.job.spec.evaluation)


def leave_if_asked(run: Run) -> None:
    """Commit what is not committed and raise Stopped, once any rank was asked to stop; collective."""
    reason = run.asked_to_stop()
    if reason is None:
        return
    if run.progress.step == 0:
        raise Stopped(f"stopped before the first step as asked ({reason}): there was nothing to commit")
    if run.uncommitted():
        commit(run)
    if run.saves.in_flight:
        acknowledge(run)
    raise Stopped(f"stopped at step {run.progress.step} as asked ({reason}), after a commit")


def upcoming(run: Run) -> Generator[StepBatch]:
    """The global batches still to train on: the rest of the epochs, or up to `maxSteps`."""
    limit = run.job.spec.training.max_steps
    remaining = None if limit is None else max(0, limit - run.progress.step)
    with closing(run.dataset.stream.batches(run.progress.data)) as batches:
        yield from islice(batches, remaining)


def wait_for(batches: Iterator[StepBatch]) -> tuple[StepBatch, float] | None:
    """The next global batch and the seconds that it was waited for; None after the last one."""
    started = time.monotonic()
    batch = next(batches, None)
    return None if batch is None else (batch, time.monotonic() - started)


def take_step(run: Run, batch: StepBatch, waited: float) -> bool:
    """One optimizer step on `batch`, which came after `waited` seconds; returns whether any rank was asked to stop.

    Raises Diverged.
    """
    started = time.monotonic() - waited
    training, progress = run.job.spec.training, run.progress
    schedule = training.schedule
    factor = learning_rate_factor(schedule.type, schedule.warmup_ratio, progress.consumed, batch.consumed)
    result = train_step(
        run.engine,
        run.objective,
        batch.micro_batches,
        global_batch=batch.all_rows,
        learning_rate=training.learning_rate * factor,
        max_grad_norm=training.max_grad_norm,
        control=run.control,
        hooks=Hooks(
            before_update=run.saves.before_update,
            votes=lambda: (run.context.stop.requested, run.commit_clock_rings(), run.saves.at_work),
        ),
    )
    run.progress = advance(progress, batch, result)
    stop, run.commit_voted, saving = result.votes
    times = StepTimes(time.monotonic() - started, waited)
    run.record_step(batch, result, training.learning_rate * factor, times)
    if run.saves.in_flight and not saving:
        acknowledge(run)
    if run.progress.skipped > training.max_skipped_steps:
        raise Diverged(_divergence(run, batch, result))
    return stop


def advance(progress: Progress, batch: StepBatch, result: StepResult) -> Progress:
    """The loop's state after `batch` was trained on, or skipped because its loss or gradient was not finite."""
    return progress.model_copy(
        update={
            "step": progress.step + 1,
            "tokens": progress.tokens + batch.tokens,
            "kept_tokens": progress.kept_tokens + batch.kept_tokens,
            "consumed": batch.consumed,
            "epoch": batch.epoch,
            "skipped": progress.skipped + (not result.applied),
            "loss": finite(result.loss),
            "data": batch.state,
        }
    )


def measure(run: Run) -> bool:
    """Evaluate the held-out sets at the current step; returns whether this is the best so far."""
    between, sets = waiting(run, "evaluating"), run.dataset.held_out
    beside = run.job.spec.evaluation.forgetting.sets
    found = evaluate(run.engine, run.objective, sets, run.micro_batch_size, run.control, between, beside)
    run.progress = run.progress.model_copy(update={"eval_counts": found.counts})
    if run.progress.step == 0:
        run.progress = run.progress.with_base(found.losses, found.mean)
    else:
        run.progress = run.progress.evaluated(found.mean)
    improved = run.progress.best is not None and run.progress.best.step == run.progress.step
    run.record_evaluation(found, best=improved)
    return improved


def _divergence(run: Run, batch: StepBatch, result: StepResult) -> str:
    samples = sorted({sample for part in run.control.gather(batch.samples()) for sample in part})
    shown = ", ".join(samples[:8]) + (f" and {len(samples) - 8} more" if len(samples) > 8 else "")
    return (
        f"step {run.progress.step}: loss {result.loss} and gradient norm {result.grad_norm} are not both finite; "
        f"{run.progress.skipped} steps were skipped and spec.training.maxSkippedSteps allows "
        f"{run.job.spec.training.max_skipped_steps}. The step trained on {shown}. Look at these records, "
        "lower spec.training.learningRate, or raise spec.training.maxSkippedSteps. The last commit is intact."
    )
