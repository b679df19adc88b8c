"""Options of the objectives that train a score head: reward models and classifiers."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_trainer.spec.base import Part

MAX_LABELS = 1024


class Reward(Part):
    """A reward model of pairs of answers (Bradley-Terry; arXiv:2203.02155, section 3.5).

    A record's `margin`, where it has one, is what the chosen answer's reward is to lie above the other's
    (arXiv:2307.09288, section 3.2.2).
    """

    center_coefficient: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Weight of the square of the sum of a pair's rewards, which keeps them around 0 (arXiv:2312.09244): try 0.01."""


class ProblemType(StrEnum):
    """What a text is given."""

    SINGLE_LABEL = "SingleLabel"
    MULTI_LABEL = "MultiLabel"
    REGRESSION = "Regression"


LabelName = Annotated[str, Field(min_length=1, max_length=256)]
ClassWeight = Annotated[float, Field(gt=0, le=1_000_000)]


class Classification(Part):
    """A classifier of texts or conversations, with transformers' losses for sequence classification."""

    problem: ProblemType = ProblemType.SINGLE_LABEL
    """`SingleLabel` gives each text one of the labels, `MultiLabel` any number of them, `Regression` a number."""

    labels: Annotated[tuple[LabelName, ...], Field(max_length=MAX_LABELS)] = ()
    """Names of the labels in the order of their ids, from 0; those of the training data, sorted, when left out."""

    class_weights: Annotated[dict[LabelName, ClassWeight], Field(max_length=MAX_LABELS)] = Field(default_factory=dict)
    """Weights by label, 1 for those left out: with `SingleLabel` of the texts that have the label, with `MultiLabel` of
    the texts that have it against those that have not."""

    balance_classes: bool = False
    """Weigh every label as much as any other, however often it is there: with `SingleLabel`, without `classWeights`."""
