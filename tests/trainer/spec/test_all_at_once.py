"""Every mistake of a manifest is shown by one attempt, and none that only follows from another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Problems = Callable[[dict[str, Any]], list[str]]
ProblemsIn = Callable[[str], list[str]]


def test_all_mistakes_are_named_at_once(problems: Problems) -> None:
    edits = {
        "model.uri": "llama",
        "data.train.1": {"uri": "s3://data/a.jsonl", "format": "Text"},
        "training.learningRate": "fast",
        "training.globalBatchSize": 3,
        "checkpoint.keeplast": 1,
        "deepspeed.overrides": {"elasticity.enabled": True, "bf16.enabled": False},
        "workers.resources.memory": "512GB",
        "/metadata/name": "Bot",
    }
    assert [line.partition(":")[0] for line in problems(edits)] == [
        "metadata.name",
        "spec.model.uri",
        "spec.training.learningRate",
        'spec.deepspeed.overrides["elasticity.enabled"]',
        'spec.deepspeed.overrides["bf16.enabled"]',
        "spec.checkpoint.keeplast",
        "spec.workers.resources.memory",
        "spec.training.globalBatchSize",
        "spec.training.globalBatchSize",
        "spec.data.train[1].format",
    ]


def test_a_rule_stays_silent_about_a_field_that_is_broken_anyway(problems: Problems) -> None:
    edits = {"training.epochs": None, "training.maxStep": 10}
    assert problems(edits) == ["spec.training.maxStep: is no field here: write maxSteps (got 10)"]


def test_a_broken_source_hides_no_finding_on_another_source(problems: Problems) -> None:
    edits = {"data.train.0.format": "Chat", "data.train.1": {"uri": "s3://data/a.jsonl", "format": "Text"}}
    found = [line.partition(":")[0] for line in problems(edits)]
    assert found == ["spec.data.train[0].format", "spec.data.train[1].format"]


def test_a_replaced_part_brings_no_finding_of_its_own(problems: Problems) -> None:
    edits = {"data.eval": [5, {"name": "support", "uri": "s3://data/a.jsonl"}]}
    found = [line.partition(":")[0] for line in problems(edits)]
    assert found == ["spec.data.eval[0]"]


@pytest.mark.parametrize("text", ["", "[]", "text", "3", "null"])
def test_a_document_that_is_no_mapping_is_refused(problems_in: ProblemsIn, text: str) -> None:
    assert problems_in(text)[0].startswith("manifest: is no mapping: write apiVersion, kind, metadata and spec")


def test_an_empty_mapping_asks_for_the_envelope(problems_in: ProblemsIn) -> None:
    assert [line.partition(":")[0] for line in problems_in("{}")] == ["apiVersion", "kind", "metadata", "spec"]


def test_long_values_are_shown_in_part(problems: Problems) -> None:
    (line,) = problems({"queueName": "Q" * 500})
    assert line.endswith(f"(got '{'Q' * 120}...')")
