"""Classifiers of documents, with the losses of transformers' sequence classification.

Single labels: cross-entropy, weighted as `torch.nn.CrossEntropyLoss` does, over the sum of the weights of the global
batch. Several labels: binary cross-entropy, a mean over the labels. Regression: the squared error.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from finetune_trainer.data import LabelSet, Row, count_documents, document_targets
from finetune_trainer.engine.batch import Forward
from finetune_trainer.engine.loss import Loss, Objective, Whole
from finetune_trainer.engine.scores import document_scores
from finetune_trainer.objectives.setting import Setting
from finetune_trainer.objectives.tallies import (
    accuracy,
    label_details,
    label_metrics,
    label_tally,
    number_metrics,
    number_tally,
)
from finetune_trainer.spec import ProblemType


@dataclass(frozen=True)
class Classifier(Objective):
    """A loss over documents of their scores and targets."""

    forward: Forward
    labels: LabelSet

    def weight(self, rows: Sequence[Row]) -> float:
        """Documents."""
        return float(count_documents(rows))

    def loss(self, engine: Any, rows: Sequence[Row], whole: Whole) -> Loss:
        """The sum over the documents."""
        scores = document_scores(self.forward, engine, rows)
        targets = _targets(rows, self.labels.width).to(scores.device)
        return Loss(self.total(scores, targets), self.tally(scores.detach(), targets))

    def constant(self, rows: Sequence[Row]) -> list[float]:
        """Of always giving the label, or the set of labels, that is the most frequent one."""
        given = [tuple(target) for target in _targets(rows, self.labels.width).tolist()]
        ((frequent, _),) = Counter(given).most_common(1)
        return [float(one == frequent) for one in given]

    @abstractmethod
    def total(self, scores: Tensor, targets: Tensor) -> Tensor:
        """The sum of the losses of D documents, of their scores float32 [D, C] and targets float32 [D, n]."""

    @abstractmethod
    def tally(self, scores: Tensor, targets: Tensor) -> Tensor:
        """`Loss.sums`: in training what `metrics` names, without gradients all that `measured` makes use of."""


class SingleLabel(Classifier):
    """Nats per document of weight 1; a document's target is the id of its label."""

    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    judged_by: ClassVar[str | None] = "accuracy"

    def weight(self, rows: Sequence[Row]) -> float:
        """The sum of the weights of the documents' labels."""
        ids = _targets(rows, 1)[:, 0].long()
        return float(torch.tensor(self.labels.weights)[ids].sum(dtype=torch.float64))

    def total(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropies, each times the weight of its label."""
        weights = torch.tensor(self.labels.weights, device=scores.device)
        return cross_entropy(scores, targets[:, 0].long(), weights, reduction="sum")

    def tally(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Of the labels with the highest score."""
        answers = (scores.argmax(dim=1), targets[:, 0].long())
        given, true = (one_hot(ids, len(self.labels.names)).bool() for ids in answers)
        return _tally(given, true)

    def measured(self, sums: Sequence[float]) -> dict[str, float]:
        """Accuracy, and macro F1 in evaluation."""
        return _measured(self, sums)

    def details(self, sums: Sequence[float]) -> dict[str, Any]:
        """Per label, and the confusion matrix."""
        return label_details(sums, self.labels.names, single=True)


class MultiLabel(Classifier):
    """Nats per document and label; a document's targets are 1 for the labels that it has, 0 for others."""

    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    judged_by: ClassVar[str | None] = "accuracy"

    def total(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropies, those of labels that a document has times their weight."""
        weights = torch.tensor(self.labels.weights, device=scores.device)
        losses = binary_cross_entropy_with_logits(scores, targets, pos_weight=weights, reduction="none")
        return losses.mean(dim=1).sum()

    def tally(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Of the labels with a probability above one half."""
        return _tally(scores > 0, targets > 0)

    def measured(self, sums: Sequence[float]) -> dict[str, float]:
        """Accuracy, and macro F1 in evaluation."""
        return _measured(self, sums)

    def details(self, sums: Sequence[float]) -> dict[str, Any]:
        """Per label."""
        return label_details(sums, self.labels.names, single=False)


class Regression(Classifier):
    """Squared error per document; a document's target is its number."""

    def total(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Squared errors."""
        return (scores[:, 0] - targets[:, 0]).square().sum()

    def constant(self, rows: Sequence[Row]) -> list[float]:
        """Of always giving the mean, the squared errors."""
        numbers = _targets(rows, 1)[:, 0].double()
        found: list[float] = (numbers - numbers.mean()).square().tolist()
        return found

    def tally(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Counts and moments, in evaluation."""
        if torch.is_grad_enabled():
            return scores.new_zeros((0, 2), dtype=torch.float64)
        return number_tally(scores[:, 0], targets[:, 0])

    def measured(self, sums: Sequence[float]) -> dict[str, float]:
        """Mean squared error and correlation, in evaluation."""
        return number_metrics(sums) if sums else {}


KINDS: dict[ProblemType, type[Classifier]] = {
    ProblemType.SINGLE_LABEL: SingleLabel,
    ProblemType.MULTI_LABEL: MultiLabel,
    ProblemType.REGRESSION: Regression,
}


def build(setting: Setting) -> Classifier:
    """The objective of `type: Classification`."""
    labels = setting.labels
    assert labels is not None  # found with the data
    return KINDS[labels.problem](setting.forward, labels)


def _tally(given: Tensor, true: Tensor) -> Tensor:
    return accuracy(given, true) if torch.is_grad_enabled() else label_tally(given, true)


def _measured(objective: Classifier, sums: Sequence[float]) -> dict[str, float]:
    if len(sums) == 2:
        return {"accuracy": sums[0] / sums[1]}
    return label_metrics(sums, len(objective.labels.names))


def _targets(rows: Sequence[Row], width: int) -> Tensor:
    return torch.from_numpy(document_targets(rows, width))
