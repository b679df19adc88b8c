"""Types of the values in a status: texts with their limits, times, sums, words that a newer operator may have added."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from textwrap import shorten
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

Text = Annotated[str, Field(max_length=1024)]
Long = Annotated[str, Field(max_length=32768)]
Uri = Annotated[str, Field(max_length=2048)]
Brief = Annotated[str, Field(max_length=40)]
"""What a column of `kubectl get` has room for."""
Total = Annotated[int, Field(ge=0)]
"""Summed over workers and attempts, which goes beyond 32 bits."""
Decimal = Annotated[str, Field(max_length=32)]
"""A loss as text, because controllers in other languages compare floats badly."""


def _rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


Time = Annotated[
    datetime,
    Field(strict=False),
    PlainSerializer(_rfc3339, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""Whole seconds in UTC, as Kubernetes' `metav1.Time`."""


def brief(text: str) -> str:
    """The beginning of a text, by whole words."""
    return shorten(text, 40, placeholder="...")


def word_or(otherwise: StrEnum) -> BeforeValidator:
    """Reads another word in place of one that is not known."""
    words = set(type(otherwise))
    return BeforeValidator(lambda word: word if word in words else otherwise)


def known_by(name: str, kind: type[StrEnum]) -> BeforeValidator:
    """Leaves out those elements of a list whose key is not known."""
    words = set(kind)

    def known(elements: Iterable[Any]) -> tuple[Any, ...]:
        return tuple(one for one in elements if not isinstance(one, Mapping) or one.get(name) in words)

    return BeforeValidator(known)
