"""Descriptions of a schema's fields, as `kubectl explain` shows them: what a field does, its bounds, its default."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

from finetune_operator.crd.overrides import OTHERS, OVERRIDES
from finetune_operator.crd.structural import MOST_CLOSED_CHOICES
from finetune_trainer.spec.base import Part
from finetune_trainer.spec.fields import Entry, walk
from finetune_trainer.spec.notyet import VALUES, one_of
from finetune_trainer.spec.reference import NOT_YET_MEMBERS, default_of, range_of

MAX_LENGTH = 1024
MOST_SHOWN_CHOICES = 16


def describe(schema: dict[str, Any], model: type[Part], prefix: str = "") -> None:
    """Write a description into every member of `schema`, which is that of `model` at `prefix`."""
    _put(schema, " ".join((inspect.getdoc(model) or "").split()))
    for entry in walk(model, prefix):
        member = _at(schema, entry.path.removeprefix(prefix))
        if member is not None:
            _put(member, description(entry))


def description(entry: Entry) -> str:
    """The field's own text, what its type adds to it, and what `kubectl explain` does not show by itself."""
    return "\n\n".join([" ".join([entry.description, *_facts(entry)]), *_reasons(entry)])


def _facts(entry: Entry) -> Iterator[str]:
    if entry.path.startswith("status."):
        if MOST_CLOSED_CHOICES < len(entry.choices) < MOST_SHOWN_CHOICES:
            yield f"One of {one_of(entry.choices)}."
        return
    if bounds := " ".join(range_of(entry)):
        yield f"Each {bounds}." if entry.is_list else f"{_sentence(bounds)}."
    if entry.is_list and entry.choices:  # kubectl shows the choices of a single value only
        yield f"Each one of {one_of(entry.choices)}."
    if entry.path in NOT_YET_MEMBERS:
        yield "Not available yet."
    if later := [f"`{choice}`" for choice in entry.choices if choice in VALUES]:
        yield f"Not available yet: {', '.join(later)}."
    if entry.default not in ((), {}) and not entry.required and (default := default_of(entry)):
        yield f"Default: {default}."


def _sentence(bounds: str) -> str:
    lowest = re.fullmatch(r"from (\S+)", bounds)
    return f"At least {lowest[1]}" if lowest else f"{bounds[0].upper()}{bounds[1:]}"


def _reasons(entry: Entry) -> list[str]:
    """The paragraphs of an object's type after its first, which say why its defaults are what they are."""
    if entry.path == OVERRIDES:
        return [OTHERS]
    paragraphs = (inspect.getdoc(entry.part) or "").split("\n\n")[1:] if entry.part else []
    return [" ".join(paragraph.split()) for paragraph in paragraphs]


def _at(schema: dict[str, Any], path: str) -> dict[str, Any] | None:
    for name in path.split("."):
        schema = schema.get("properties", {}).get(name.removesuffix("[]"))
        if schema is None:
            return None
        if name.endswith("[]"):
            schema = schema["items"]
    return schema


def _put(schema: dict[str, Any], text: str) -> None:
    """Before everything else, for the reader of the CRD."""
    members = dict(schema)
    schema.clear()
    schema["description"] = text if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH - 3]}..."
    schema.update(members)
