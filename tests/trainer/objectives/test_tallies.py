"""Sums over documents say what scikit-learn and numpy say of all documents, however they are dealt out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support
from torch.nn.functional import one_hot

from finetune_trainer.objectives.tallies import (
    CONFUSION_LABELS,
    accuracy,
    label_details,
    label_metrics,
    label_tally,
    number_metrics,
    number_tally,
)


def summed(given: torch.Tensor, true: torch.Tensor) -> list[float]:
    """As ranks add up what they count of their documents, of which one has none."""
    parts = (slice(0, 7), slice(7, 7), slice(7, None))
    return sum(label_tally(given[part], true[part]) for part in parts).flatten().tolist()  # type: ignore[union-attr]


def drawn(labels: int, texts: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """True and given ids; the last two labels are never true, the very last one never given either."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.randint(0, labels - 2, (texts,), generator=generator)
    other = torch.randint(0, labels - 1, (texts,), generator=generator)
    return true, torch.where(torch.rand(texts, generator=generator) < 0.6, true, other)


@pytest.mark.parametrize("labels", [4, CONFUSION_LABELS + 1])
def test_single_labels_are_measured_as_scikit_learn_does(labels: int) -> None:
    true, given = drawn(labels, 101, seed=labels)
    sums = summed(one_hot(given, labels).bool(), one_hot(true, labels).bool())
    found = label_metrics(sums, labels)
    assert found["accuracy"] == pytest.approx(accuracy_score(true, given))
    assert found["macroF1"] == pytest.approx(f1_score(true, given, average="macro"))
    names = [f"label {number}" for number in range(labels)]
    details = label_details(sums, names, single=True)
    expected = precision_recall_fscore_support(true, given, labels=range(labels), zero_division=0.0)
    for name, *values in zip(names, *expected, strict=True):
        assert list(details["labels"][name].values()) == pytest.approx(values)
    matrix = confusion_matrix(true, given, labels=range(labels)).tolist()
    assert details.get("confusion") == (matrix if labels <= CONFUSION_LABELS else None)


def test_several_labels_are_measured_as_scikit_learn_does() -> None:
    generator = torch.Generator().manual_seed(1)
    true, given = (torch.rand((53, 5), generator=generator) < share for share in (0.3, 0.4))
    given[:20] = true[:20]
    found = label_metrics(summed(given, true), 5)
    assert found["accuracy"] == pytest.approx(accuracy_score(true, given))
    assert found["macroF1"] == pytest.approx(f1_score(true, given, average="macro"))


def test_accuracy_alone_is_what_the_whole_tally_begins_with() -> None:
    true, given = (one_hot(ids, 6).bool() for ids in drawn(6, 40, seed=2))
    assert torch.equal(accuracy(given, true), label_tally(given, true)[:1])


def test_numbers_are_measured_as_numpy_does() -> None:
    generator = np.random.default_rng(0)
    true = generator.normal(50, 3, 40)
    given = true + generator.normal(0, 2, 40)
    parts = [
        number_tally(torch.from_numpy(given[part]), torch.from_numpy(true[part])) for part in (slice(9), slice(9, None))
    ]
    found = number_metrics(sum(parts).flatten().tolist())  # type: ignore[union-attr]
    assert found["mse"] == pytest.approx(np.mean((given - true) ** 2), rel=1e-9)
    assert found["correlation"] == pytest.approx(np.corrcoef(given, true)[0, 1], rel=1e-9)


def test_what_cannot_be_said_is_left_out() -> None:
    nothing = torch.zeros((0, 3), dtype=torch.bool)
    assert label_metrics(label_tally(nothing, nothing).flatten().tolist(), 3) == {}
    assert number_metrics([0.0] * 6) == {}
    constant = number_tally(torch.ones(4), torch.arange(4.0)).flatten().tolist()
    assert set(number_metrics(constant)) == {"mse"}
