"""How answers that a model writes are compared with the held-out ones."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_trainer.spec.base import Part


class MetricType(StrEnum):
    """What is compared; every metric is a number from 0 to 1 for each record, and more is better."""

    EXACT_MATCH = "ExactMatch"
    TOKEN_F1 = "TokenF1"
    ROUGE_L = "RougeL"
    JSON_VALID = "JsonValid"
    JSON_FIELDS = "JsonFields"
    CHOICE = "Choice"
    REGEX = "Regex"


FieldName = Annotated[str, Field(min_length=1, max_length=256)]
ChoiceText = Annotated[str, Field(min_length=1, max_length=256)]


class Metric(Part):
    """One way to compare an answer that the model writes with the record's own."""

    type: MetricType
    """`ExactMatch` and `TokenF1` compare words without case and punctuation, `RougeL` their longest common
    subsequence, `JsonValid` asks for JSON, `JsonFields` for the right fields of an object, `Choice` for the right one
    of `choices`, `Regex` for the same text where `pattern` matches."""

    fields: Annotated[tuple[FieldName, ...], Field(max_length=64)] = ()
    """Fields that `JsonFields` compares, `a.b` for `b` inside of `a`; all of the record's when left out."""

    choices: Annotated[tuple[ChoiceText, ...], Field(max_length=64)] = ()
    """Answers that `Choice` tells apart, at least two; the first one that stands in the model's answer counts."""

    pattern: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """What `Regex` looks for in both answers: the first group of the last match is compared, or all of it."""


OWNERS = {"fields": MetricType.JSON_FIELDS, "choices": MetricType.CHOICE, "pattern": MetricType.REGEX}
"""The type that each option is for."""
