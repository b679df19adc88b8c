"""What objectives on pairs of answers share: the two documents of a record, and how far they are apart."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from finetune_trainer.data import Row, count_documents

ACCURACY = "rewards/accuracy"
METRICS = ("rewards/chosen", "rewards/rejected", ACCURACY, "rewards/margin")
"""Means over pairs of the two answers' rewards, of whether the chosen one's is higher, and of how much."""


def count(rows: Sequence[Row]) -> float:
    """Number of pairs in `rows`."""
    return count_documents(rows) / 2


def apart(values: Tensor) -> tuple[Tensor, Tensor]:
    """Of values by document [2P] those of the chosen and those of the rejected answers, [P] each."""
    return values[0::2], values[1::2]


def measured(chosen: Tensor, rejected: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """`METRICS` of rewards [P], as sums and counts."""
    values = (chosen, rejected, (chosen > rejected).float(), chosen - rejected)
    return {name: (value.sum(), value.new_tensor(len(chosen))) for name, value in zip(METRICS, values, strict=True)}
