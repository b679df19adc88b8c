"""What the log-probabilities of the trained model are compared with: the model as it was before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from finetune_trainer.data import Row
from finetune_trainer.engine.batch import Forward
from finetune_trainer.model.head import KeptPositions
from finetune_trainer.objectives.precomputed import Precomputed
from finetune_trainer.objectives.scoring import ReferenceModel, answer_log_probabilities
from finetune_trainer.objectives.setting import Setting
from finetune_trainer.spec.objective import Reference


@dataclass(frozen=True)
class AdapterOff(ReferenceModel):
    """The trained model without its adapter."""

    forward: Forward

    def log_probabilities(self, engine: Any, rows: Sequence[Row]) -> Tensor:
        """One more forward pass of the engine's own model."""
        with engine.module.disable_adapter():
            return answer_log_probabilities(self.forward, engine, rows)


@dataclass(frozen=True)
class FrozenCopy(ReferenceModel):
    """A second model, whole on every rank."""

    forward: Forward
    model: torch.nn.Module

    def log_probabilities(self, engine: Any, rows: Sequence[Row]) -> Tensor:
        """One forward pass of the second model."""
        return answer_log_probabilities(self.forward, self.model, rows)


def reference_model(setting: Setting, chosen: Reference | None) -> ReferenceModel:
    """The reference that a manifest asks for."""
    if chosen is Reference.BASE:
        return AdapterOff(setting.forward)
    if chosen is Reference.PRECOMPUTED:
        return Precomputed(setting)
    model = setting.load_base()
    model.requires_grad_(False).to(setting.forward.device).eval()
    return FrozenCopy(replace(setting.forward, head=KeptPositions(model)), model)
