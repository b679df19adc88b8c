"""What is counted of a classifier's answers, and what the counts say: sums over documents, so that ranks can add them.

Definitions as in scikit-learn: `accuracy` of several labels is the share of texts with all labels right, `macroF1` the
mean over the labels that are in the data or in the answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CONFUSION_LABELS = 64
"""Most labels of which every pair of true and given label is counted."""


def accuracy(given: Tensor, true: Tensor) -> Tensor:
    """Documents with every label right, and documents; float64 [1, 2]. `given` and `true`: bool [D, C]."""
    return torch.stack([(given == true).all(dim=1).sum(), torch.tensor(len(true), device=true.device)]).double()[None]


def label_tally(given: Tensor, true: Tensor) -> Tensor:
    """Texts with each label right, given and true, then with each pair of true and given label; float64 [M, 2].

    `given` and `true`: bool [D, C]. Begins with `accuracy`. No pairs are counted of more than `CONFUSION_LABELS`.
    """
    counts = [(given & true).sum(0), given.sum(0), true.sum(0)]
    if true.shape[1] <= CONFUSION_LABELS:
        counts.append((true.double().T @ given.double()).flatten())
    return torch.cat([accuracy(given, true), _pairs(torch.cat([one.double() for one in counts]))])


def label_metrics(sums: Sequence[float], labels: int) -> dict[str, float]:
    """`accuracy` and `macroF1` of a `label_tally`, added up and laid end to end; without the former if it is empty."""
    if not sums[1]:
        return {}
    right, given, true = _by_label(sums, labels)
    seen = given + true > 0
    scores = 2 * right[seen] / (given + true)[seen]
    return {"accuracy": sums[0] / sums[1], "macroF1": float(scores.mean())} if seen.any() else {}


def label_details(sums: Sequence[float], names: Sequence[str], *, single: bool) -> dict[str, Any]:
    """JSON-able: precision, recall and F1 by label; of single labels the confusion matrix, a row for each true one."""
    right, given, true = _by_label(sums, len(names))
    found: dict[str, Any] = {
        "labels": {
            name: {
                "precision": _share(right[i], given[i]),
                "recall": _share(right[i], true[i]),
                "f1": _share(2 * right[i], given[i] + true[i]),
                "texts": int(true[i]),
            }
            for i, name in enumerate(names)
        }
    }
    if single and len(names) <= CONFUSION_LABELS:
        first = 2 + 3 * len(names)
        matrix = np.array(sums[first : first + len(names) ** 2]).reshape(len(names), -1)
        found["confusion"] = matrix.astype(int).tolist()
    return found


def number_tally(given: Tensor, true: Tensor) -> Tensor:
    """What mean squared error and correlation are made of: counts and moments, float64 [3, 2]. Both arguments [D]."""
    one, other = given.double(), true.double()
    ones = torch.ones_like(other)
    return torch.stack(
        [(x * y).sum() for x, y in ((ones, ones), (ones, one), (ones, other), (one, one), (other, other), (one, other))]
    ).view(3, 2)


def number_metrics(sums: Sequence[float]) -> dict[str, float]:
    """`mse`, and Pearson's `correlation` where neither side is constant, of a `number_tally`, added up."""
    count, given, true, given2, true2, both = sums
    if not count:
        return {}
    found = {"mse": (given2 - 2 * both + true2) / count}
    spread = (count * given2 - given**2) * (count * true2 - true**2)
    return found | ({"correlation": float((count * both - given * true) / spread**0.5)} if spread > 0 else {})


def _by_label(sums: Sequence[float], labels: int) -> NDArray[np.float64]:
    """Texts with each label right, given and true, float64 [3, C]."""
    return np.array(sums[2 : 2 + 3 * labels], dtype=np.float64).reshape(3, labels)


def _pairs(values: Tensor) -> Tensor:
    return torch.nn.functional.pad(values, (0, len(values) % 2)).view(-1, 2)


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0
