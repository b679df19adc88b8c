"""What a step needs to know of an objective: its loss over some rows, and what the sum of all losses is divided by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from finetune_trainer.data import Row
from finetune_trainer.engine.collectives import ControlGroup

Whole = Mapping[str, float]
"""Named numbers of a whole global batch, the same on every rank, that the loss of each of its rows needs."""


Between = Callable[[], None]


@dataclass(frozen=True)
class Loss:
    """Of some rows. `total`: float scalar with gradient, a sum over what `Objective.weight` counts.

    `sums`: float64 [M, 2] on the same device, the sum and the count behind each of the objective's M metrics.
    """

    total: Tensor
    sums: Tensor


class Objective(ABC):
    """A training objective: its loss is a sum over rows, divided by the weight of the global batch.

    Sum and weight are taken over all micro-batches and ranks, so neither their number nor how the rows are dealt out
    changes a step. `metrics` names what it measures on the way, means over whatever it counts. `judged_by`: that of its
    metrics, more is better, by which the models before and after training are compared; None: by its loss.
    """

    metrics: ClassVar[tuple[str, ...]] = ()
    judged_by: ClassVar[str | None] = None

    @abstractmethod
    def weight(self, rows: Sequence[Row]) -> float:
        """What the sum of the losses of `rows` is divided by: kept tokens, pairs or records; adds up over rows."""

    @abstractmethod
    def loss(self, engine: Any, rows: Sequence[Row], whole: Whole) -> Loss:
        """The loss of a micro-batch of this rank; for no rows zero, but connected to every parameter.

        `whole` is what `prepare` returned for the global batch that the rows are from.
        """

    def prepare(self, engine: Any, rows: Sequence[Row], control: ControlGroup) -> Whole:
        """What the losses of `rows`, a global batch or a part of a held-out set, need of all of them; collective."""
        return {}

    def begin(self, engine: Any, fresh: bool, between: Between) -> None:  # noqa: B027 -- most have nothing to do
        """Called once before the first step of a start; collective.

        `fresh`: the engine has the weights that training begins with, and no others. `between` is to be called before
        each micro-batch of what takes long, equally often on every rank; it ends that by raising.
        """

    def measured(self, sums: Sequence[float]) -> dict[str, float]:
        """Its metrics, of `Loss.sums` added up over rows and laid end to end."""
        return means(self.metrics, sums)

    def details(self, sums: Sequence[float]) -> dict[str, Any]:
        """What a held-out set's sums say beyond the metrics, JSON-able; for most objectives nothing."""
        return {}

    def constant(self, rows: Sequence[Row]) -> list[float] | None:
        """What the best answer that is the same for all of `rows`, a record each, comes to by `judged_by` or the loss.

        A model that has learnt no more than how often what is said matches it. None where there is no such answer.
        """
        return None

    def sums(self, parts: Mapping[str, tuple[Tensor, Tensor]], total: Tensor) -> Tensor:
        """`Loss.sums` of the sum and the count of each metric by name."""
        values = [value for name in self.metrics for value in parts[name]]
        stacked = [value.detach().to(device=total.device, dtype=torch.float64) for value in values]
        return torch.stack(stacked).view(-1, 2) if stacked else total.new_zeros((0, 2), dtype=torch.float64)


def means(metrics: Iterable[str], sums: Sequence[float]) -> dict[str, float]:
    """The metrics that were counted, of `Loss.sums` laid end to end."""
    pairs = zip(metrics, sums[::2], sums[1::2], strict=True)
    return {name: total / count for name, total, count in pairs if count}
