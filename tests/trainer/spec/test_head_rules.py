"""Options of classifiers and reward models that contradict each other, with place, value and advice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Problems = Callable[[dict[str, Any]], list[str]]

PATH = "spec.objective.classification"
MISTAKES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "labels of a regression": (
        {"problem": "Regression", "labels": ["low", "high"], "classWeights": {"low": 2.0}, "balanceClasses": True},
        [
            f"{PATH}.labels: has no effect with problem: Regression: remove it, or write problem: SingleLabel (got 'a list')",
            f"{PATH}.classWeights: has no effect with problem: Regression: remove it, or write problem: SingleLabel (got 'a mapping')",
            f"{PATH}.balanceClasses: has no effect with problem: Regression: remove it, or write problem: SingleLabel (got True)",
        ],
    ),
    "a single label": (
        {"labels": ["spam"]},
        [
            f"{PATH}.labels: leaves nothing to choose from: name two labels or more, or leave it out to take those of the "
            "data (got 'a list')"
        ],
    ),
    "a label twice": (
        {"labels": ["spam", "ham", "spam"]},
        [f"{PATH}.labels: is the name of 2 labels: name each label once (got 'spam')"],
    ),
    "a balance of several labels": (
        {"problem": "MultiLabel", "balanceClasses": True},
        [
            f"{PATH}.balanceClasses: weighs single labels against each other: remove it, or write classWeights (got True)"
        ],
    ),
    "two ways to weigh": (
        {"classWeights": {"spam": 2.0}, "balanceClasses": True},
        [f"{PATH}.balanceClasses: weighs the labels, which classWeights do as well: keep one of the two (got True)"],
    ),
    "the weight of an unknown label": (
        {"labels": ["spam", "ham"], "classWeights": {"very spam": 2.0}},
        [
            f'{PATH}.classWeights["very spam"]: is the weight of a label that {PATH}.labels does not name: write one of '
            "spam, ham (got 2.0)"
        ],
    ),
}
CLASSIFIER: dict[str, Any] = {
    "objective.type": "Classification",
    "data.train": [{"uri": "s3://data/a.jsonl"}],
    "data.eval": [{"uri": "s3://data/b.jsonl", "name": "held-out"}],
}


@pytest.mark.parametrize("case", MISTAKES)
def test_options_that_contradict_each_other_are_refused(problems: Problems, case: str) -> None:
    options, expected = MISTAKES[case]
    assert problems(CLASSIFIER | {"objective.classification": options}) == expected


def test_a_classifier_needs_no_option(problems: Problems) -> None:
    assert problems(CLASSIFIER) == []


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        (
            CLASSIFIER | {"data.train": [{"uri": "s3://data/a.jsonl", "format": "Messages"}]},
            "spec.data.train[0].format: does not suit objective Classification: write Auto or Classification (got 'Messages')",
        ),
        (
            CLASSIFIER | {"data.overlong": "Split"},
            "spec.data.overlong: would cut",
        ),
        (
            CLASSIFIER | {"objective.reward": {"centerCoefficient": 0.01}},
            "spec.objective.reward: has no effect with type: Classification: remove it, or write type: Reward (got 'a "
            "mapping')",
        ),
        (
            {"objective.type": "Reward", "objective.classification": {}, "data.train": [{"uri": "s3://data/a.jsonl"}]},
            "spec.objective.classification: has no effect with type: Reward: remove it, or write type: Classification "
            "(got 'a mapping')",
        ),
        (
            {"objective.classification": {}},
            "spec.objective.classification: has no effect with type: SFT",
        ),
        (
            {"data.train": [{"uri": "s3://data/a.jsonl", "format": "Classification"}]},
            "spec.data.train[0].format: does not suit objective SFT",
        ),
    ],
)
def test_data_and_options_of_other_objectives_are_refused(
    problems: Problems, edits: dict[str, Any], expected: str
) -> None:
    found = problems(edits)
    assert any(line.startswith(expected) for line in found), found
