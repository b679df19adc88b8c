"""A run as one rank sees it: everything that the loop, the commits and the export work on."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from transformers import PreTrainedTokenizerFast

from finetune_trainer.context import RunContext, StopSignal
from finetune_trainer.data import StepBatch
from finetune_trainer.data.ends import trained_ends
from finetune_trainer.dataset import Dataset
from finetune_trainer.engine.batch import Forward
from finetune_trainer.engine.collectives import ControlGroup
from finetune_trainer.engine.loss import Objective
from finetune_trainer.engine.memory import memory_in_use
from finetune_trainer.engine.step import StepResult
from finetune_trainer.errors import FinetuneError, Stopped
from finetune_trainer.evaluate import Evaluation
from finetune_trainer.evaluation.compare import Comparison, positions
from finetune_trainer.evaluation.sides import BeforeFile
from finetune_trainer.metrics import DETAILS_PREFIX, EVAL_PREFIX, METRIC_PREFIX, History, Record
from finetune_trainer.model.fingerprint import ModelIdentity
from finetune_trainer.model.load import load_config
from finetune_trainer.report.course import Course
from finetune_trainer.report.refresh import Refresher
from finetune_trainer.saving import Saved, Saves
from finetune_trainer.shares import Stage
from finetune_trainer.spec import LANGUAGE, FineTuneJob
from finetune_trainer.starting_point import StartingPoint
from finetune_trainer.state import Progress, evaluation_due, finite
from finetune_trainer.store import RunLog, Writer
from finetune_trainer.trackers.base import Outcome
from finetune_trainer.trackers.feed import Feeds

SPEED_WINDOW = 20  # steps over which tokens per second are averaged
PULSE_SECONDS = 10.0
LAST_SAVE_SECONDS = 30.0
"""Seconds that a run which failed gives a save that was begun before; what it would have committed is not lost then."""


def asked_to_stop(control: ControlGroup, stop: StopSignal) -> str | None:
    """Why the run shall stop, once any rank was asked to; the same on every rank. Collective."""
    if not control.sum([stop.requested])[0]:
        return None
    reasons: list[str | None] = control.gather(stop.reason)
    return next(reason for reason in reasons if reason is not None)


def _outcome(kind: type[BaseException] | None) -> Outcome:
    if kind is None:
        return Outcome.FINISHED
    return Outcome.STOPPED if issubclass(kind, Stopped) else Outcome.FAILED


class StepTimes(NamedTuple):
    """Seconds that a step took, its wait for data included, and that wait."""

    whole: float
    data: float


@dataclass
class Run:
    """Built once per start of the workers (`build.build`); `progress` is the only part that training replaces.

    `committed` is the progress in the newest commit, which was written or loaded, `saving` that of the save that goes
    on; saves agree over `saving_group`, beside what training does. `clock` is monotonic, in seconds.
    """

    job: FineTuneJob
    context: RunContext
    control: ControlGroup
    log: RunLog
    writer: Writer
    model_path: Path
    model: ModelIdentity
    start: StartingPoint | None  # the checkpoint of another run that this one began with
    adapter: Path | None  # the folder of the adapter that it began with
    tokenizer: PreTrainedTokenizerFast
    dataset: Dataset
    engine: Any
    forward: Forward
    objective: Objective
    micro_batch_size: int
    history: History
    audit: dict[str, Any]
    saving_group: ControlGroup
    stage: Stage
    saves: Saves[Saved] = field(default_factory=Saves)
    resources: ExitStack = field(default_factory=ExitStack)
    progress: Progress = field(default_factory=Progress)
    parent: int | None = None
    committed: Progress | None = None
    saving: Progress | None = None
    commit_voted: bool = False
    objective_begun: bool = False
    clock: Callable[[], float] = time.monotonic
    last_commit: float = field(init=False)
    comparison: Comparison = field(init=False)
    reports: Refresher = field(init=False)
    course: Course | None = None
    trackers: Feeds = field(default_factory=Feeds)
    _said: set[str] = field(default_factory=set)
    _recent: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=SPEED_WINDOW))

    def __post_init__(self) -> None:
        self.last_commit = self.clock()
        language = self.job.spec.objective.type in LANGUAGE  # a classifier's template need not answer
        self.comparison = Comparison(
            spec=self.job.spec,
            context=self.context,
            control=self.control,
            dataset=self.dataset,
            tokenizer=self.tokenizer,
            engine=self.engine,
            forward=self.forward,
            objective=self.objective,
            file=BeforeFile(self.log.journal.store, self.log.journal.run_id),
            ends=trained_ends(self.tokenizer, self.dataset.index.rendered_formats) if language else (),
            positions=positions(load_config(self.model_path), self.job.spec.data.max_length),
        )
        self.reports = Refresher(lambda text: self.report_phase("writing the report", text))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.stage.release()
            self.reports.close()
        elif issubclass(kind, FinetuneError):  # after a broken connection no save can end well
            self.saves.abandon(LAST_SAVE_SECONDS)
        self.trackers.close(_outcome(kind))
        self.resources.close()

    def begin_objective(self, between: Callable[[], None], *, fresh: bool) -> None:
        """Let the objective get ready to compute losses, once in each start; see `Objective.begin`."""
        if not self.objective_begun:
            self.objective.begin(self.engine, fresh, between)
            self.objective_begun = True

    def evaluation_due(self) -> bool:
        """Whether the held-out sets must be evaluated at the current step."""
        return evaluation_due(self.progress, self.job.spec.evaluation, has_sets=bool(self.dataset.held_out))

    def uncommitted(self) -> bool:
        """Whether a commit would hold anything that the newest one, or the one that is being made, does not."""
        return self.progress.step > 0 and self.progress != (self.saving or self.committed)

    def asked_to_stop(self) -> str | None:
        """Why the run shall stop, once any rank was asked to; collective."""
        return asked_to_stop(self.control, self.context.stop)

    def commit_clock_rings(self) -> bool:
        """Rank 0's vote for a commit by time: `checkpoint.everySeconds` have passed since the last one."""
        every = self.job.spec.checkpoint.every_seconds
        return self.control.is_main and every is not None and self.clock() - self.last_commit >= every

    def record_step(self, batch: StepBatch, result: StepResult, learning_rate: float, times: StepTimes) -> None:
        """Note one finished step in the history and report it (rank 0)."""
        self._recent.append((batch.tokens, times.whole))
        if not self.control.is_main:
            return
        progress = self.progress
        record: Record = {
            "step": progress.step,
            "epoch": round(progress.epoch, 6),
            "loss": finite(result.loss),
            "gradNorm": finite(result.grad_norm),
            "learningRate": learning_rate,
            "rows": batch.global_rows,
            "tokens": progress.tokens,
            "keptTokens": batch.kept_tokens,
            **{name: finite(value) for name, value in result.metrics.items()},
            "seconds": round(times.whole, 6),
            "dataSeconds": round(times.data, 6),
            "time": round(time.time(), 3),
            **memory_in_use(self.context.device),
        }
        self.history.add(record)
        self.trackers.put(record)
        self.report(
            {
                "kind": "progress",
                "step": progress.step,
                "totalSteps": self.total_steps(),
                "percent": 100.0 * progress.consumed,
                "epoch": progress.epoch,
                "loss": result.loss,
                "tokens": progress.tokens,
                "tokensPerSecond": self.tokens_per_second(),
                "learningRate": learning_rate,
                "gradNorm": result.grad_norm,
                **({"metrics": result.metrics} if result.metrics else {}),
            }
        )

    def record_evaluation(self, found: Evaluation, *, best: bool) -> None:
        """Note one evaluation of all held-out sets in the history and report it (rank 0)."""
        if not self.control.is_main:
            return
        losses = {f"{EVAL_PREFIX}{name}": finite(loss) for name, loss in found.losses.items()}
        metrics = (
            (f"{METRIC_PREFIX}{held}/{of}", one) for held, own in found.metrics.items() for of, one in own.items()
        )
        measured = {key: finite(one) for key, one in metrics}
        mean = finite(found.mean)
        details = {f"{DETAILS_PREFIX}{name}": one for name, one in found.details.items() if one}
        record: Record = {"step": self.progress.step, "evalLoss": mean, **losses, **measured}
        record = {**record, "evalTokens": found.tokens, **details}
        self.history.add(record)
        self.trackers.put(record)
        event: dict[str, Any] = {"kind": "eval", "step": self.progress.step, "evalLoss": found.mean, "best": best}
        event |= {} if self.progress.base_mean is None else {"baseLoss": self.progress.base_mean}
        self.report(event | ({"metrics": found.metrics} if any(found.metrics.values()) else {}))

    def report_commit(self, saved: Saved, waited: float) -> None:
        """Report a commit (rank 0), for which training on this rank waited so many seconds."""
        progress = saved.progress
        self.report(
            {
                "kind": "checkpoint",
                "step": progress.step,
                "uri": self.log.uri,
                "best": progress.best is not None and progress.best.step == progress.step,
                "seconds": saved.seconds,
                "waitedSeconds": waited,
                "bytes": saved.size,
                "stepSeconds": max((seconds for _, seconds in self._recent), default=0.0),
            }
        )

    def say_once(self, name: str, detail: str) -> None:
        """Report a phase of this name for the first time only (rank 0)."""
        if name not in self._said:
            self._said.add(name)
            self.report_phase(name, detail)

    def report_contamination(self) -> None:
        """Say what was found of held-out records among the training records, if that was looked for (rank 0)."""
        before = self.comparison.before
        found = [
            f"{one.name}: {one.exact:,} equal and {one.near:,} resemble one, of {one.records:,}"
            for one in (before.contamination if before is not None else ())
        ]
        if found:
            self.report_phase("contamination", "; ".join(found))

    def report_phase(self, name: str, detail: str = "") -> None:
        """Report that the run entered a phase (rank 0)."""
        self.report({"kind": "phase", "name": name, "detail": detail})

    def pulse(self, name: str, unit: str) -> Callable[[], None]:
        """A function to call after each `unit` of long work: it reports how many are done, at most each 10 s.

        Whoever watches for silence sees that the run lives; work that is soon over reports nothing.
        """
        done, last = 0, self.clock()

        def beat() -> None:
            nonlocal done, last
            done += 1
            if self.clock() - last >= PULSE_SECONDS:
                last = self.clock()
                self.report({"kind": "phase", "name": name, "done": done, "unit": unit})

        return beat

    def report(self, event: Mapping[str, object]) -> None:
        """Hand an event to rank 0's reporter; the other ranks' events are dropped."""
        if self.control.is_main:
            self.context.reporter.report(event)

    def total_steps(self) -> int:
        """Steps of the whole run: `maxSteps`, or an estimate from the share of records consumed so far."""
        limit = self.job.spec.training.max_steps
        if limit is not None:
            return limit
        return max(self.progress.step, round(self.progress.step / max(self.progress.consumed, 1e-9)))

    def tokens_per_second(self) -> float:
        """Non-padding tokens per second of all ranks, over the last `SPEED_WINDOW` steps."""
        seconds = sum(seconds for _, seconds in self._recent)
        return sum(tokens for tokens, _ in self._recent) / seconds if seconds else 0.0
