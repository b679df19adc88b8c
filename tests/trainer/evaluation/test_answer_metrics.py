"""Metrics of answers, against the programs that define them, and what records they refuse."""

from __future__ import annotations

import re
import string
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from finetune_trainer.evaluation.metrics import make_metric, metric_name
from finetune_trainer.evaluation.metrics.choice import Choice
from finetune_trainer.evaluation.metrics.json_answers import JsonFields, JsonValid
from finetune_trainer.evaluation.metrics.regex import Regex
from finetune_trainer.evaluation.metrics.rouge import RougeL
from finetune_trainer.evaluation.metrics.words import ExactMatch, TokenF1
from finetune_trainer.spec import Metric, MetricType

WORDS = st.sampled_from(
    ["the", "The", "a", "cat", "Cat,", "sat.", "on", "mat", "mat!", "an", "--", "don't", "3.5", "$5"]
)
TEXTS = st.lists(WORDS, max_size=9).map(" ".join)


def squad_words(text: str) -> list[str]:
    """Normalisation of SQuAD's evaluate-v2.0.py, as published."""
    kept = "".join(ch for ch in text.lower() if ch not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split()).split()


def squad_f1(answer: str, reference: str) -> float:
    """`compute_f1` of the same program."""
    one, other = squad_words(answer), squad_words(reference)
    same = sum((Counter(one) & Counter(other)).values())
    if not one or not other:
        return float(one == other)
    if not same:
        return 0.0
    precision, recall = same / len(one), same / len(other)
    return 2 * precision * recall / (precision + recall)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(TEXTS, TEXTS)
def test_words_are_compared_as_squad_compares_them(answer: str, reference: str) -> None:
    assert TokenF1().score(answer, reference) == pytest.approx(squad_f1(answer, reference))
    if squad_words(answer) or squad_words(reference):
        assert ExactMatch().score(answer, reference) == float(squad_words(answer) == squad_words(reference))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(TEXTS, TEXTS)
def test_rouge_l_is_that_of_googles_library(answer: str, reference: str) -> None:
    expected = RougeScorer(["rougeL"]).score(reference, answer)["rougeL"].fmeasure
    assert RougeL().score(answer, reference) == pytest.approx(expected)


def test_words_of_other_scripts_count() -> None:
    assert RougeL().score("Grüße aus Köln", "grüße aus köln") == 1.0
    assert TokenF1().score("«да», нет", "да нет") == 1.0
    assert ExactMatch().score("はい。", "はい") == 1.0


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ('{"total": 12.5, "customer": {"name": "Ada", "id": 7}, "paid": true}', 1.0),
        ('```json\n{"total": 12.50, "customer": {"id": 7, "name": "Ada"}, "paid": true, "more": 1}\n```', 1.0),
        ('{"total": 12.5, "customer": {"name": "Ada", "id": 8}, "paid": true}', 2 / 3),
        ('{"total": "12.5", "paid": 1}', 0.0),
        ('The order: {"total": 12.5}', 0.0),
        ("[1, 2]", 0.0),
    ],
)
def test_fields_of_an_object_are_compared_by_value(answer: str, score: float) -> None:
    reference = '{"total": 12.5, "customer": {"name": "Ada", "id": 7}, "paid": true}'
    assert JsonFields().score(answer, reference) == pytest.approx(score)


def test_named_fields_alone_are_compared_also_inside_of_others() -> None:
    metric = JsonFields(["customer.name", "total"])
    reference = '{"total": 3, "customer": {"name": "Ada", "id": 7}}'
    assert metric.score('{"total": 3, "customer": {"name": " Ada "}}', reference) == 1.0
    assert metric.score('{"total": 4, "customer": {"name": "Ada"}}', reference) == 0.5
    assert metric.problem(reference) is None
    assert metric.problem('{"total": 3}') == "its answer has no field 'customer.name'"


def test_valid_json_is_json_and_nothing_else() -> None:
    metric = JsonValid()
    assert [metric.score(text, "{}") for text in ("[1]", '```\n{"a": 1}\n```', "{'a': 1}", "", "[" * 100_000)] == [
        1.0,
        1.0,
        0.0,
        0.0,
        0.0,
    ]


def test_the_choice_that_stands_first_counts_as_a_word_of_its_own() -> None:
    metric = Choice(["yes", "no", "not sure"])
    assert metric.score("No, yes would be wrong", "no") == 1.0
    assert metric.score("nobody knows: yes", "no") == 0.0
    assert metric.score("not sure", "not sure") == 1.0
    assert metric.score("", "yes") == 0.0


def test_the_last_match_of_a_pattern_counts() -> None:
    metric = Regex(r"####\s*(-?\d+)")
    assert metric.score("#### 3, no, 2 + 2 is\n#### 4", "so\n####4") == 1.0
    assert metric.score("4", "#### 4") == 0.0
    assert Regex(r"\d+").score("it is 12", "12") == 1.0


@pytest.mark.parametrize(
    ("metric", "reference", "problem"),
    [
        (Metric(type=MetricType.TOKEN_F1), "...", "its answer has no words"),
        (Metric(type=MetricType.ROUGE_L), "--", "its answer has no words"),
        (Metric(type=MetricType.JSON_VALID), "{total: 1}", "its answer is no JSON"),
        (Metric(type=MetricType.JSON_FIELDS), "[1]", "its answer is no JSON object"),
        (Metric(type=MetricType.JSON_FIELDS), "{}", "its answer is an object without fields"),
        (Metric(type=MetricType.CHOICE, choices=("yes", "no")), "perhaps", "its answer is none of the choices"),
        (Metric(type=MetricType.REGEX, pattern="####"), "4", "the pattern matches nowhere in its answer"),
    ],
)
def test_a_record_that_a_metric_cannot_be_computed_of_is_named_with_the_reason(
    metric: Metric, reference: str, problem: str
) -> None:
    assert make_metric(metric).problem(reference) == problem


@pytest.mark.parametrize("kind", MetricType)
def test_every_metric_of_the_manifest_gives_full_marks_to_the_records_own_answer(kind: MetricType) -> None:
    choices = ("yes", "no") if kind is MetricType.CHOICE else ()
    asked = Metric(type=kind, choices=choices, pattern="yes" if kind is MetricType.REGEX else None)
    metric, reference = make_metric(asked), '{"answer": "yes"}'
    assert metric.problem(reference) is None
    assert metric.score(reference, reference) == 1.0
    assert metric.score("", reference) == 0.0
    assert metric_name(asked)[0].islower()
