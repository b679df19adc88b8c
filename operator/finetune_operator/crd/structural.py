"""From pydantic's JSON schema (draft 2020-12) to the structural OpenAPI v3 schema that a CRD needs.

References are inlined, nullable fields are optional ones, exclusive bounds are flags, constants are enums, and unknown
fields are left to the API server: it prunes them, and refuses them where the client asks for strict validation, as
kubectl does. Defaults are written where they depend on nothing else; the others (COMPUTED_DEFAULTS) are filled in by
whoever reads the job, since the API server cannot.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from finetune_operator.crd.overrides import OVERRIDES, options
from finetune_trainer.spec.base import Part
from finetune_trainer.spec.quantity import CPU_PATTERN, MEMORY_PATTERN
from finetune_trainer.spec.reference import COMPUTED_DEFAULTS

Schema = dict[str, Any]

PRESERVE = "x-kubernetes-preserve-unknown-fields"
INT_OR_STRING = "x-kubernetes-int-or-string"
LIST_KEYS = {
    "spec.data.eval": "name",
    "status.conditions": "type",
    "status.attempts": "number",
    "status.failures": "reason",
}
"""Lists of objects that have a name each, so that several writers can own elements of one list."""

CHECKED_BY_CEL = re.compile("|".join([re.escape(CPU_PATTERN), re.escape(MEMORY_PATTERN), r"\^\(s3\|file.*"]))
"""Patterns that are left out, since a CEL rule says the same with advice: amounts and addresses."""

MOST_CLOSED_CHOICES = 3
MAX_WORD = 64
_COPIED = (
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minimum",
    "maximum",
    "maxProperties",
    "required",
    PRESERVE,
)
_HANDLED = {
    *("$ref", "anyOf", "type", "title", "description", "default", "enum", "const", "format", "pattern", "items"),
    *("properties", "additionalProperties", "propertyNames", "exclusiveMinimum", "exclusiveMaximum", INT_OR_STRING),
}


def structural(model: type[Part], path: str = "") -> Schema:
    """The schema of `model`, which stands at `path` of its resource. Raises ValueError for a keyword that is unknown
    here, so that none is lost."""
    document = model.model_json_schema(by_alias=True)
    return _Rewriter(document.pop("$defs", {})).node(document, path)


@dataclass(frozen=True)
class _Rewriter:
    definitions: dict[str, Schema]

    def node(self, given: Schema, path: str) -> Schema:
        """The schema of the value at `path`, without description and default."""
        source = self._resolve(given)
        if unknown := set(source) - _HANDLED - set(_COPIED):
            raise ValueError(f"{path}: the JSON schema has {sorted(unknown)}, which no CRD is known to have")
        if path == OVERRIDES:
            return options()
        kind = {INT_OR_STRING: True} if source.get(INT_OR_STRING) else self._type(source, path)
        rest = {name: source[name] for name in _COPIED if name in source}
        return {**kind, **rest, **dict(_bounds(source)), **dict(_text(source)), **self._members(source, path)}

    def _resolve(self, given: Schema) -> Schema:
        """Without references and without null; what stands beside a reference stays."""
        if reference := given.get("$ref"):
            return self._resolve({**self.definitions[reference.rpartition("/")[2]], **_without(given, "$ref")})
        members = given.get("anyOf", [])
        if {"type": "null"} in members:
            (member,) = (one for one in members if one != {"type": "null"})
            return self._resolve({**member, **_without(given, "anyOf", "default")})
        return given

    def _type(self, source: Schema, path: str) -> Schema:
        kind = {"type": source["type"]} if "type" in source else {}
        values = source.get("enum", [source["const"]] if "const" in source else None)
        if values is None:
            return kind
        # A word that a later operator adds to the status must not be refused by a CRD of before.
        return {**kind, "maxLength": MAX_WORD} if _is_open(path, values) else {**kind, "enum": values}

    def _members(self, source: Schema, path: str) -> Schema:
        if "items" in source:
            key = LIST_KEYS.get(path)
            kind = (
                {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}
                if key
                else {"x-kubernetes-list-type": "atomic"}
            )
            return {"items": self.node(source["items"], f"{path}[]"), **kind}
        if "properties" in source:
            named = {
                name: self._property(given, f"{path}.{name}".strip(".")) for name, given in source["properties"].items()
            }
            return {"properties": named} if named else {}  # the API server stores no empty map, and Helm compares
        if isinstance(values := source.get("additionalProperties"), dict):
            inner = self.node(values, f"{path}{{}}")
            # CEL sees a map of values without a type only if it is an object without known members.
            return {PRESERVE: True} if inner == {PRESERVE: True} else {"additionalProperties": inner}
        return {}

    def _property(self, given: Schema, path: str) -> Schema:
        schema = self.node(given, path)
        default = self._resolve(given).get("default")
        if path in COMPUTED_DEFAULTS or not path.startswith("spec."):
            return schema
        # Whole objects, since rules are tried on a default before its members' own defaults are filled in.
        filled = _plain(default, path)
        return schema if filled in (None, [], {}) else {**schema, "default": filled}


def _without(schema: Schema, *names: str) -> Schema:
    return {name: value for name, value in schema.items() if name not in names}


def _is_open(path: str, values: list[str]) -> bool:
    return path.startswith("status") and len(values) > MOST_CLOSED_CHOICES


def _bounds(source: Schema) -> Iterator[tuple[str, Any]]:
    for end in ("Minimum", "Maximum"):
        if (bound := source.get(f"exclusive{end}")) is not None:
            yield end.lower(), bound
            yield f"exclusive{end}", True


def _text(source: Schema) -> Iterator[tuple[str, str]]:
    if "format" in source:
        yield "format", source["format"]
    pattern = source.get("pattern", "")
    if pattern and not CHECKED_BY_CEL.fullmatch(pattern):
        yield "pattern", pattern


def _plain(default: Any, path: str) -> Any:
    """A default without what is empty, and without what follows from other fields."""
    if not isinstance(default, dict):
        return default
    members = {name: _plain(value, f"{path}.{name}") for name, value in default.items()}
    return {
        name: value
        for name, value in members.items()
        if value not in (None, [], {}) and f"{path}.{name}" not in COMPUTED_DEFAULTS
    }
