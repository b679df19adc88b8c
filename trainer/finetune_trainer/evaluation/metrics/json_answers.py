"""Answers that are JSON: whether they are, and whether an object's fields are right."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

_FENCE = re.compile(r"^```[a-zA-Z]*\s*\n(.*)\n\s*```$", re.DOTALL)
_NOTHING = object()


def read(text: str) -> Any:
    """The JSON value of a text, which a Markdown fence may stand around; ValueError if it is none."""
    stripped = text.strip()
    fenced = _FENCE.match(stripped)
    try:
        return json.loads(fenced.group(1) if fenced else stripped)
    except RecursionError:
        raise ValueError("nested too deeply") from None


class JsonValid:
    """1 where the answer is JSON and nothing else; a Markdown fence around it is none of it."""

    def problem(self, reference: str) -> str | None:
        """Where the record's own answer is no JSON, no model should be asked for it."""
        return None if _value(reference) is not _NOTHING else "its answer is no JSON"

    def score(self, answer: str, reference: str) -> float:
        """1.0 or 0.0."""
        return float(_value(answer) is not _NOTHING)


class JsonFields:
    """The share of fields of the record's object that the answer has with the same value.

    `fields`: those compared, `a.b` for `b` inside of `a`; without any, all of the record's own, at the top. Numbers are
    equal by value, texts but for white space at their ends. Fields that only the answer has count nothing.
    """

    def __init__(self, fields: Sequence[str] = ()) -> None:
        self._fields = tuple(fields)

    def problem(self, reference: str) -> str | None:
        """The record's own answer must be an object that has the fields."""
        expected = _value(reference)
        if not isinstance(expected, Mapping):
            return "its answer is no JSON object"
        if not self._fields and not expected:
            return "its answer is an object without fields"
        missing = [field for field in self._fields if _at(expected, field) is _NOTHING]
        return f"its answer has no field {missing[0]!r}" if missing else None

    def score(self, answer: str, reference: str) -> float:
        """The share of right fields; 0.0 for an answer that is no JSON object."""
        expected, found = _value(reference), _value(answer)
        paths = [tuple(field.split(".")) for field in self._fields] or [(name,) for name in expected]
        return sum(_same(_below(found, path), _below(expected, path)) for path in paths) / len(paths)


def _value(text: str) -> Any:
    try:
        return read(text)
    except ValueError:
        return _NOTHING


def _at(value: Any, field: str) -> Any:
    return _below(value, field.split("."))


def _below(value: Any, path: Sequence[str]) -> Any:
    for name in path:
        value = value.get(name, _NOTHING) if isinstance(value, Mapping) else _NOTHING
    return value


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, str) and isinstance(other, str):
        return one.strip() == other.strip()
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)  # true is not 1 in JSON
