"""What a CRD needs of the types: bounds everywhere, no tuples, RE2 patterns, UpperCamelCase values, descriptions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from finetune_trainer.spec import FineTuneJob
from finetune_trainer.spec.fields import entries

Schema = dict[str, Any]


def nodes(schema: Any, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every subschema with a path for messages."""
    if isinstance(schema, list):
        for index, item in enumerate(schema):
            yield from nodes(item, f"{path}/{index}")
    elif isinstance(schema, dict):
        yield path, schema
        for name, item in schema.items():
            yield from nodes(item, f"{path}/{name}")


@pytest.fixture(scope="module")
def schema() -> list[tuple[str, Schema]]:
    return list(nodes(FineTuneJob.model_json_schema(by_alias=True)))


def test_every_text_list_and_map_is_bounded(schema: list[tuple[str, Schema]]) -> None:
    unbounded = [
        path
        for path, node in schema
        if (node.get("type") == "string" and not {"maxLength", "enum", "const"} & node.keys() and "anyOf" not in path)
        or (node.get("type") == "array" and "maxItems" not in node)
        or (isinstance(node.get("additionalProperties"), dict) and "maxProperties" not in node)
        or (node.get("type") in ("integer", "number") and "minimum" not in node and "exclusiveMinimum" not in node
            and "anyOf" not in path)
    ]  # fmt: skip
    assert unbounded == []


def test_there_are_no_tuples(schema: list[tuple[str, Schema]]) -> None:
    assert [path for path, node in schema if "prefixItems" in node] == []


def test_patterns_are_valid_in_re2(schema: list[tuple[str, Schema]]) -> None:
    patterns = {node["pattern"] for _, node in schema if isinstance(node.get("pattern"), str)}
    assert len(patterns) > 5
    assert [p for p in patterns if re.search(r"\(\?[=!<]|\\[1-9]|\\[zZG]|[*+?}]\+", p)] == []


def test_enum_values_are_upper_camel_case(schema: list[tuple[str, Schema]]) -> None:
    values = {value for _, node in schema if isinstance(node.get("enum"), list) for value in node["enum"]}
    assert len(values) > 30
    assert [value for value in values if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", value)] == []


def test_field_names_are_camel_case_and_each_field_says_what_it_does() -> None:
    assert [
        path for path in entries() if not re.fullmatch(r"([a-z][A-Za-z0-9]*(\[\])?\.)*[a-z][A-Za-z0-9]*", path)
    ] == []
    assert [entry.path for entry in entries().values() if not entry.description.endswith(".")] == []
