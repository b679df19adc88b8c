"""Supervised fine-tuning: cross-entropy of the answers' tokens, each one weighing the same or what the data says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from finetune_trainer.data import Row
from finetune_trainer.engine.batch import Forward
from finetune_trainer.engine.loss import Loss, Objective, Whole
from finetune_trainer.objectives.setting import Setting


@dataclass(frozen=True)
class CrossEntropy(Objective):
    """Nats per kept token; with weights, per kept token of weight 1."""

    forward: Forward

    def weight(self, rows: Sequence[Row]) -> float:
        """Kept tokens, each counted by its weight."""
        return sum(row.kept_weight for row in rows)

    def loss(self, engine: Any, rows: Sequence[Row], whole: Whole) -> Loss:
        """The sum over the kept tokens of weight x cross-entropy."""
        if all(row.weights is None for row in rows):
            total = self.forward(engine, rows)
        else:
            kept = self.forward.kept(engine, rows)
            weights = [row.kept_weights for row in rows]
            total = (kept.losses * torch.cat([torch.from_numpy(one) for one in weights]).to(kept.losses.device)).sum()
        return Loss(total, self.sums({}, total))


def build(setting: Setting) -> Objective:
    """The objective of SFT."""
    return CrossEntropy(setting.forward)
