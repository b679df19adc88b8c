"""Log-probabilities of answers under a model or a reference, without gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from finetune_trainer.data import Row
from finetune_trainer.engine.batch import Forward
from finetune_trainer.engine.loss import Between


class ReferenceModel(ABC):
    """Knows the log-probabilities of answers under the reference."""

    def begin(self, engine: Any, fresh: bool, between: Between) -> None:  # noqa: B027 -- most have nothing to do
        """As `Objective.begin`."""

    @abstractmethod
    def log_probabilities(self, engine: Any, rows: Sequence[Row]) -> Tensor:
        """That of each document's kept tokens together, float64 [documents], without gradient."""


@torch.no_grad()
def answer_log_probabilities(forward: Forward, model: Any, rows: Sequence[Row]) -> Tensor:
    """Of each document the log-probability of its kept tokens together, float64 [documents]; without dropout."""
    with without_dropout(model):
        return -forward.kept(model, rows).sums()


@contextmanager
def without_dropout(model: Any) -> Iterator[None]:
    """The model, or the engine around it, in evaluation mode, and then as it was."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
