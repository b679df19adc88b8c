"""What the loop carries from step to step besides tensors, and what it decides from it: pure values and functions."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from pydantic import BaseModel, ConfigDict

from finetune_trainer.data import Counters, DataState
from finetune_trainer.spec import Checkpoint, Evaluation


def finite(value: float | None) -> float | None:
    """None for what JSON has no number for."""
    return value if value is not None and isfinite(value) else None


class Best(BaseModel):
    """The lowest held-out loss so far and the step it was measured at."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    loss: float


class Progress(BaseModel):
    """The loop's state after `step` optimizer steps; JSON inside the checkpoint's log entry.

    `tokens` counts non-padding tokens seen; `skipped` steps without an update for a non-finite loss or gradient;
    `stale` evaluations since the best one; `eval_counts` what became of the records of each held-out set; `data` is the
    stream's own state; `finished`: nothing is left to train. A loss that was not finite is None.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int = 0
    tokens: int = 0
    kept_tokens: int = 0
    consumed: float = 0.0
    epoch: float = 0.0
    skipped: int = 0
    loss: float | None = None
    base: dict[str, float | None] | None = None
    base_mean: float | None = None
    last_eval: float | None = None
    last_eval_step: int | None = None
    best: Best | None = None
    stale: int = 0
    eval_counts: dict[str, Counters] = {}
    data: DataState | None = None
    finished: bool = False

    def with_base(self, losses: Mapping[str, float], mean: float) -> Progress:
        """After the evaluation of the untrained model at step 0."""
        base = {name: finite(loss) for name, loss in losses.items()}
        return self.model_copy(update={"base": base, "base_mean": finite(mean)})

    def evaluated(self, loss: float) -> Progress:
        """After an evaluation at the current step with mean held-out `loss`; if not finite, it is no best."""
        update: dict[str, Any] = {"last_eval": finite(loss), "last_eval_step": self.step}
        if isfinite(loss) and (self.best is None or loss < self.best.loss):
            return self.model_copy(update=update | {"best": Best(step=self.step, loss=loss), "stale": 0})
        return self.model_copy(update=update | {"stale": self.stale + 1})


def evaluation_due(progress: Progress, evaluation: Evaluation | None, *, has_sets: bool) -> bool:
    """Whether the held-out sets must be evaluated at the current step; step 0 is before training (`compareBase`)."""
    if not has_sets or evaluation is None:
        return False
    if progress.step == 0:
        return evaluation.compare_base and progress.base is None
    periodic = evaluation.every_steps is not None and progress.step % evaluation.every_steps == 0
    return periodic and progress.last_eval_step != progress.step


def commit_due(progress: Progress, checkpoint: Checkpoint, *, improved: bool) -> bool:
    """Whether this step's state must be committed by count of steps, or as the best one so far."""
    periodic = checkpoint.every_steps is not None and progress.step % checkpoint.every_steps == 0
    return periodic or (improved and checkpoint.keep_best > 0)


def out_of_patience(progress: Progress, evaluation: Evaluation | None) -> bool:
    """Whether early stopping ends the run now."""
    if evaluation is None or evaluation.early_stopping is None:
        return False
    return progress.stale >= evaluation.early_stopping.patience
