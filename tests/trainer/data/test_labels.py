"""What a classifier's records are given: labels by name or id, one or several, or numbers; declared, or found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from finetune_trainer.data.examples import BadRecord, Labelled, Text
from finetune_trainer.data.formats import convert
from finetune_trainer.data.label_set import LabelSet, Value, label_set
from finetune_trainer.data.labels import count_labels
from finetune_trainer.errors import DataError
from finetune_trainer.spec import Classification, Format, ProblemType
from finetune_trainer.store import open_store
from small_data import index_of, source, write_records

NAMES = ("billing", "shipping", "returns")
SINGLE, SEVERAL = LabelSet(ProblemType.SINGLE_LABEL, NAMES), LabelSet(ProblemType.MULTI_LABEL, NAMES)
NUMBER = LabelSet(ProblemType.REGRESSION)


def judged(labels: LabelSet, given: object) -> tuple[float, ...]:
    return labels.judge(Labelled(Text("where is it?"), given)).targets


@pytest.mark.parametrize(
    ("labels", "given", "targets"),
    [
        (SINGLE, "returns", (2.0,)),
        (SINGLE, 1, (1.0,)),
        (SINGLE, 1.0, (1.0,)),
        (LabelSet(ProblemType.SINGLE_LABEL, ("2", "1", "0")), 2, (0.0,)),  # a number that is a name
        (LabelSet(ProblemType.SINGLE_LABEL, ("false", "true")), True, (1.0,)),
        (SEVERAL, ["returns", 0], (1.0, 0.0, 1.0)),
        (SEVERAL, [], (0.0, 0.0, 0.0)),
        (NUMBER, 3, (3.0,)),
        (NUMBER, -0.5, (-0.5,)),
    ],
)
def test_a_label_becomes_the_numbers_that_the_loss_takes(
    labels: LabelSet, given: object, targets: tuple[float, ...]
) -> None:
    assert judged(labels, given) == targets


@pytest.mark.parametrize(
    ("labels", "given", "reason"),
    [
        (SINGLE, "refunds", "the unknown label 'refunds': write one of billing, shipping, returns, or name it in"),
        (SINGLE, 3, "the unknown label '3'"),
        (SINGLE, -1, "the unknown label '-1'"),
        (SINGLE, ["billing"], "a list of labels, and spec.objective.classification.problem is SingleLabel"),
        (SINGLE, {"name": "billing"}, "a label that is a dict"),
        (SINGLE, "", "a label that is an empty string"),
        (SINGLE, 0.5, "a label that is a float"),
        (SEVERAL, "billing", "no list of labels, and spec.objective.classification.problem is MultiLabel"),
        (SEVERAL, [0, 1, 1], "the same label twice: the list has the names or ids of the labels that apply"),
        (NUMBER, "3", "a label that is no finite number, and spec.objective.classification.problem is Regression"),
        (NUMBER, float("nan"), "no finite number"),
        (NUMBER, True, "no finite number"),
    ],
)
def test_a_label_that_cannot_be_used_says_why(labels: LabelSet, given: object, reason: str) -> None:
    with pytest.raises(BadRecord) as refusal:
        judged(labels, given)
    assert reason in str(refusal.value)


def test_labels_are_counted_in_all_sources_and_the_count_is_kept(tmp_path: Path) -> None:
    few = write_records(tmp_path / "few.jsonl", [{"text": "a", "label": "spam"}, {"text": "b", "label": "ham"}, "{"])
    many = [{"text": "c", "label": ["spam", "ham"][i % 3 == 0]} for i in range(600)]
    columns = source(write_records(tmp_path / "many.parquet", many, row_group_size=100), format_=Format.CLASSIFICATION)
    index = index_of(source(few, format_=Format.CLASSIFICATION), columns.model_copy(update={"weight": 0.5}))
    cache = open_store(f"file://{tmp_path}/cache")
    counts = count_labels(index, cache)
    assert counts.weighted([1.0, 0.5]) == {"spam": 1 + 200, "ham": 1 + 100}
    few.unlink()
    assert count_labels(index, cache) == counts


def test_what_can_be_no_label_is_passed_over_and_whoever_waits_is_told(tmp_path: Path) -> None:
    given = ["spam", "", {"name": "ham"}, 0.5, ["ham", None], "ham"]
    path = write_records(tmp_path / "odd.jsonl", [{"text": "a", "label": one} for one in given])
    told: list[tuple[int, int]] = []
    index = index_of(source(path, format_=Format.CLASSIFICATION))
    counts = count_labels(index, open_store(f"file://{tmp_path}/cache"), lambda *amount: told.append(amount))
    assert counts.weighted([1.0]) == {"spam": 1, "ham": 1}
    assert told == [(0, 6)]


COUNTED: dict[Value, float] = {"spam": 30, "ham": 10, "unsure": 20}


def test_labels_of_the_data_are_taken_in_order_and_those_of_the_manifest_as_they_stand() -> None:
    found = label_set(Classification(), COUNTED)
    assert (found.names, found.counts) == (("ham", "spam", "unsure"), (10, 30, 20))
    assert label_set(Classification(), {10: 1, 9: 1, 2: 1}).names == ("2", "9", "10")
    declared = label_set(Classification(labels=("unsure", "spam", "ham")), {"spam": 1, 0: 2, "ham": 3, "other": 9})
    assert (declared.names, declared.counts) == (("unsure", "spam", "ham"), (2, 1, 3))


def test_weights_are_those_of_the_manifest_or_scikit_learns_balanced_ones() -> None:
    assert label_set(Classification(class_weights={"spam": 3.0}), COUNTED).weights == (1.0, 3.0, 1.0)
    texts = np.repeat(["ham", "spam", "unsure"], [10, 30, 20])
    expected = compute_class_weight("balanced", classes=np.array(["ham", "spam", "unsure"]), y=texts)
    assert label_set(Classification(balance_classes=True), COUNTED).weights == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "counted", "message"),
    [
        ({"labels": ("spam", "ham", "eggs")}, COUNTED, "no training record has the label eggs: a classifier cannot"),
        ({}, {"spam": 3}, "the training data has the label 'spam' only: add records with other labels"),
        ({}, {}, "the training data has no label: add records"),
        ({}, {f"text {i}": 1 for i in range(1025)}, "the training data has 1025 different labels, more than 1024"),
        (
            {"class_weights": {"egg": 2.0}},
            COUNTED,
            "classWeights: egg is no label of the training data, ham, spam, unsu",
        ),
    ],
)
def test_labels_that_cannot_be_learnt_are_refused(
    options: dict[str, Any], counted: dict[Value, float], message: str
) -> None:
    with pytest.raises(DataError) as refusal:
        label_set(Classification(**options), counted)
    assert str(refusal.value).startswith("spec.objective.classification.")
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"text": "a"}, "no 'label' (format Classification)"),
        ({"label": 1}, "neither 'text' nor 'messages'"),
        ({"text": "a", "messages": [], "label": 1}, "both 'text' and 'messages'"),
        ({"text": " ", "label": 1}, "'text' is empty"),
        ({"messages": [], "label": 1}, "the messages are not a list of at least one message"),
    ],
)
def test_records_without_text_or_label_are_refused(record: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRecord) as refusal:
        convert(record, Format.CLASSIFICATION, {})
    assert reason in str(refusal.value)


def test_a_conversation_to_be_classified_needs_no_answer() -> None:
    example = convert(
        {"messages": [{"role": "user", "content": "where is it?"}], "l": 0}, Format.CLASSIFICATION, {"label": "l"}
    )
    assert isinstance(example, Labelled)
    assert example.given == 0
