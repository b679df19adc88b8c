"""What is asked of an evaluation and cannot be, each with the exact place, value and advice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Problems = Callable[[dict[str, Any]], list[str]]

MISTAKES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "options of another metric": (
        {"data.eval.0.metrics": [{"type": "RougeL", "fields": ["a"], "choices": ["x", "y"], "pattern": "z"}]},
        [
            "spec.data.eval[0].metrics[0].fields: has no effect with type: RougeL: remove it, or write type: "
            "JsonFields (got 'a list')",
            "spec.data.eval[0].metrics[0].choices: has no effect with type: RougeL: remove it, or write type: Choice "
            "(got 'a list')",
            "spec.data.eval[0].metrics[0].pattern: has no effect with type: RougeL: remove it, or write type: Regex "
            "(got 'a text')",
        ],
    ),
    "forgetting of a set that is not there": (
        {"evaluation.forgetting.sets": ["generic"]},
        [
            "spec.evaluation.forgetting.sets[0]: is the name of no set in spec.data.eval: write the name of one, or "
            "remove it (got 'generic')"
        ],
    ),
    "forgetting of every set": (
        {"evaluation.forgetting.sets": ["support"]},
        [
            "spec.evaluation.forgetting.sets: leaves no set of spec.data.eval that training is about: remove one, or "
            "add a set there (got 'a list')"
        ],
    ),
    "a choice of one": (
        {"data.eval.0.metrics": [{"type": "Choice", "choices": ["yes"]}]},
        [
            "spec.data.eval[0].metrics[0].choices: needs at least two answers to tell apart: write for instance "
            "choices: ['yes', 'no'] (got 'a list')"
        ],
    ),
    "no pattern": (
        {"data.eval.0.metrics": [{"type": "TokenF1"}, {"type": "Regex"}]},
        [
            "spec.data.eval[0].metrics[1].pattern: is what type: Regex compares: write for instance pattern: "
            "'Answer: (.*)' (got nothing)"
        ],
    ),
    "a pattern that is none": (
        {"data.eval.0.metrics": [{"type": "Regex", "pattern": "(["}]},
        [
            "spec.data.eval[0].metrics[0].pattern: is no regular expression of Python (unterminated character set at "
            "position 1): correct it (got '([')"
        ],
    ),
    "metrics of texts": (
        {
            "objective.type": "CPT",
            "data.train": [{"uri": "s3://data/a.jsonl"}],
            "data.eval.0.metrics": [{"type": "ExactMatch"}],
        },
        [
            "spec.data.eval[0].metrics: compares answers, which records have with objective SFT alone: remove it "
            "(got 'a list')"
        ],
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_an_evaluation_that_cannot_be_says_what_to_write(problems: Problems, case: str) -> None:
    edits, expected = MISTAKES[case]
    assert problems(edits) == expected
