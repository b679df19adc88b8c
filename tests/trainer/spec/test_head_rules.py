"""Options of classifiers and reward models that contradict each other, with place, value and advice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from finetune_trainer.spec import Classification, Reward, parse_job
from finetune_trainer.spec.example import MINIMAL

Problems = Callable[[dict[str, Any]], list[str]]

PATH = "spec.objective.classification"
MISTAKES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "labels of a regression": (
        {"problem": "Regression", "labels": ["low", "high"], "classWeights": {"low": 2.0}, "balanceClasses": True},
        [
            f"{PATH}.{name}: has no effect with problem: Regression: remove it, or write problem: SingleLabel "
            f"(got {got})"
            for name, got in {"labels": "'a list'", "classWeights": "'a mapping'", "balanceClasses": True}.items()
        ],
    ),
    "a single label": (
        {"labels": ["spam"]},
        [
            f"{PATH}.labels: leaves nothing to choose from: name two labels or more, or leave it out to take those of "
            "the data (got 'a list')"
        ],
    ),
    "a label twice": (
        {"labels": ["spam", "ham", "spam"]},
        [f"{PATH}.labels: is the name of 2 labels: name each label once (got 'spam')"],
    ),
    "a balance of several labels": (
        {"problem": "MultiLabel", "balanceClasses": True},
        [
            f"{PATH}.balanceClasses: weighs single labels against each other: remove it, or write classWeights "
            "(got True)"
        ],
    ),
    "two ways to weigh": (
        {"classWeights": {"spam": 2.0}, "balanceClasses": True},
        [f"{PATH}.balanceClasses: weighs the labels, which classWeights do as well: keep one of the two (got True)"],
    ),
    "the weight of an unknown label": (
        {"labels": ["spam", "ham"], "classWeights": {"very spam": 2.0}},
        [
            f'{PATH}.classWeights["very spam"]: is the weight of a label that {PATH}.labels does not name: write one '
            "of spam, ham (got 2.0)"
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


def test_options_are_filled_in_and_pairs_are_never_cut() -> None:
    jobs = {
        kind: parse_job(MINIMAL.replace("type: SFT", f"type: {kind}")).spec for kind in ("Reward", "Classification")
    }
    assert jobs["Reward"].objective.reward == Reward()
    assert jobs["Classification"].objective.classification == Classification()
    assert [str(spec.data.overlong) for spec in jobs.values()] == ["Drop", "Truncate"]


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        (
            CLASSIFIER | {"data.train": [{"uri": "s3://data/a.jsonl", "format": "Messages"}]},
            "spec.data.train[0].format: does not suit objective Classification: write Auto or Classification (got "
            "'Messages')",
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
