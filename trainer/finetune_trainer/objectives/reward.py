"""A reward model of pairs: the chosen answer's reward shall lie above the other's by a margin (Bradley-Terry).

The loss is that of TRL's RewardTrainer, and of arXiv:2307.09288, section 3.2.2; rewards are centred as in
arXiv:2312.09244.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from finetune_trainer.data import Row
from finetune_trainer.engine.batch import Forward
from finetune_trainer.engine.loss import Loss, Objective, Whole
from finetune_trainer.engine.scores import document_scores
from finetune_trainer.objectives.pairs import ACCURACY, METRICS, apart, count, measured
from finetune_trainer.objectives.setting import Setting
from finetune_trainer.spec import Reward


@dataclass(frozen=True)
class BradleyTerry(Objective):
    """Nats per pair."""

    metrics: ClassVar[tuple[str, ...]] = METRICS
    judged_by: ClassVar[str | None] = ACCURACY

    forward: Forward
    center_coefficient: float = 0.0

    def weight(self, rows: Sequence[Row]) -> float:
        """Pairs."""
        return count(rows)

    def loss(self, engine: Any, rows: Sequence[Row], whole: Whole) -> Loss:
        """The sum over the pairs."""
        rewards = document_scores(self.forward, engine, rows)[:, 0]
        chosen, rejected = apart(rewards)
        margins = _margins(rows).to(rewards.device)
        total = pair_losses(chosen, rejected, margins, self.center_coefficient).sum()
        return Loss(total, self.sums(measured(chosen, rejected), total))


def pair_losses(chosen: Tensor, rejected: Tensor, margins: Tensor, center_coefficient: float) -> Tensor:
    """The loss of each of P pairs, float32 [P], of its two rewards and its margin, float32 [P] each."""
    losses = -logsigmoid(chosen - rejected - margins)
    return losses + center_coefficient * (chosen + rejected).square() if center_coefficient else losses


def build(setting: Setting) -> BradleyTerry:
    """The objective of `type: Reward`."""
    options = setting.job.spec.objective.reward or Reward()
    return BradleyTerry(setting.forward, options.center_coefficient)


def _margins(rows: Sequence[Row]) -> Tensor:
    """The margin of each pair, 0 where its record has none; float32 [P]."""
    found = [np.zeros(len(row.records), np.float32) if row.targets is None else row.targets[:, 0] for row in rows]
    return torch.from_numpy(np.nan_to_num(np.concatenate([np.zeros(0, np.float32), *found])[::2]))
