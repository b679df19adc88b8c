"""Merging a runtime's members into ours."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.render.merge import merge


@pytest.mark.parametrize(
    ("ours", "theirs", "merged"),
    [
        ({"a": 1}, {}, {"a": 1}),
        ({"a": 1}, {"a": 2, "b": 3}, {"a": 2, "b": 3}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}, {"a": {"b": 3, "c": 2}}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": None}}, {"a": {"c": 2}}),
        ({"a": 1}, {"a": None}, {}),
        ({}, {"a": {"b": None, "c": 1}}, {"a": {"c": 1}}),
        ({"x": [{"name": "a", "v": 1}]}, {"x": [{"name": "b"}]}, {"x": [{"name": "a", "v": 1}, {"name": "b"}]}),
        ({"x": [{"name": "a", "v": 1}]}, {"x": [{"name": "a", "w": 2}]}, {"x": [{"name": "a", "w": 2}]}),
        ({"drop": ["ALL"]}, {"drop": ["ALL", "KILL"]}, {"drop": ["ALL", "KILL"]}),
        (
            {"volumeMounts": [{"name": "a", "mountPath": "/a"}]},
            {"volumeMounts": [{"name": "b", "mountPath": "/a"}, {"name": "a", "mountPath": "/b"}]},
            {"volumeMounts": [{"name": "b", "mountPath": "/a"}, {"name": "a", "mountPath": "/b"}]},
        ),
        ({"tolerations": [{"key": "a", "x": 1}]}, {"tolerations": [{"key": "a"}]}, {"tolerations": [{"key": "a"}]}),
    ],
)
def test_members_are_merged(ours: dict[str, Any], theirs: dict[str, Any], merged: dict[str, Any]) -> None:
    assert merge(ours, theirs) == merged
