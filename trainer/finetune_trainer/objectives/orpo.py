"""Odds ratio preference optimisation: fine-tuning on the chosen text, with odds against the rejected answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import logsigmoid

from finetune_trainer.data import Row, documents_of
from finetune_trainer.engine.batch import Forward
from finetune_trainer.engine.collectives import ControlGroup
from finetune_trainer.engine.loss import Loss, Objective, Whole
from finetune_trainer.objectives import pairs
from finetune_trainer.objectives.setting import Setting
from finetune_trainer.spec.objective import ORPO


@dataclass(frozen=True)
class OddsRatio(Objective):
    """The mean cross-entropy over the tokens of all chosen texts, prompts included, as its authors and TRL have it, and
    the mean over pairs of the odds ratio's loss.
    """

    forward: Forward
    options: ORPO
    metrics: ClassVar[tuple[str, ...]] = (*pairs.METRICS, "nll", "logOddsRatio")
    judged_by: ClassVar[str | None] = pairs.ACCURACY

    def weight(self, rows: Sequence[Row]) -> float:
        """Number of pairs."""
        return pairs.count(rows)

    def prepare(self, engine: Any, rows: Sequence[Row], control: ControlGroup) -> Whole:
        """How many pairs there are for each token of a chosen text."""
        chosen = sum(len(document) - 1 for row in rows for document in documents_of(row)[0::2])
        return {"pairsPerToken": self.weight(rows) / chosen}

    def loss(self, engine: Any, rows: Sequence[Row], whole: Whole) -> Loss:
        """The sum over pairs; the reward of an answer is beta times the mean log-probability of its tokens."""
        kept = self.forward.kept(engine, [_with_chosen_prompts(row) for row in rows])
        answers = _marks([_answer_tokens(row) for row in rows], kept.losses)
        of_chosen = (kept.documents % 2 == 0).to(kept.losses.dtype)
        zeros = kept.losses.new_zeros(kept.count, dtype=torch.float64)
        sums = zeros.index_add(0, kept.documents, (kept.losses * answers).double())
        log_probabilities = -sums / zeros.index_add(0, kept.documents, answers.double())
        chosen, rejected = pairs.apart(log_probabilities)
        ratio = logsigmoid((chosen - rejected) - (_log1mexp(chosen) - _log1mexp(rejected)))
        nll = (kept.losses * of_chosen).sum(dtype=torch.float64)
        total = nll * whole["pairsPerToken"] - self.options.beta * ratio.sum()
        beta = self.options.beta
        parts = pairs.measured(beta * chosen.detach(), beta * rejected.detach())
        parts |= {"nll": (nll, of_chosen.sum()), "logOddsRatio": (ratio.sum(), ratio.new_tensor(len(ratio)))}
        return Loss(total, self.sums(parts, total))


def _with_chosen_prompts(row: Row) -> Row:
    """The row with a label for every token of its chosen documents but their first."""
    chosen = np.repeat(np.arange(len(row.lengths)) % 2 == 0, row.lengths)
    inside = chosen & (row.position_ids > 0)
    return replace(row, trained=row.trained | inside)


def _answer_tokens(row: Row) -> NDArray[np.bool_]:
    """Of the tokens that `_with_chosen_prompts` trains, which are part of an answer."""
    return np.asarray(row.trained[_with_chosen_prompts(row).trained])


def _marks(parts: Sequence[NDArray[np.bool_]], like: Tensor) -> Tensor:
    marks = np.concatenate([np.zeros(0, dtype=np.bool_), *parts])
    return torch.from_numpy(marks).to(like.device, like.dtype)


def _log1mexp(values: Tensor) -> Tensor:
    """log(1 - exp(values)) of values below 0, without cancellation (Machler, 2012)."""
    near = values > -0.6931471805599453
    return torch.where(
        near, torch.log(-torch.expm1(values.where(near, values.new_tensor(-0.1)))), torch.log1p(-values.exp())
    )


def build(setting: Setting) -> Objective:
    """The objective of `spec.objective.orpo`."""
    return OddsRatio(setting.forward, setting.job.spec.objective.orpo or ORPO())
