"""Joins what the operator writes with what a runtime adds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEYS = {"tolerations": "key", "volumeMounts": "mountPath", "volumeDevices": "devicePath", "hostAliases": "ip"}
"""By which member the elements of a list are told apart, where it is not `name`."""


def merge(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """`ours` with the members of `theirs` on top.

    Objects are merged member by member, and null removes a member. Lists are appended; an element with the same name
    as one of ours takes its place. Anything else replaces.
    """
    merged = dict(ours)
    for name, value in theirs.items():
        merged[name] = _joined(name, merged.get(name), value)
    return {name: value for name, value in merged.items() if value is not None}


def _joined(name: str, ours: Any, theirs: Any) -> Any:
    if isinstance(theirs, Mapping):
        return merge(ours if isinstance(ours, Mapping) else {}, theirs)
    if isinstance(ours, list) and isinstance(theirs, list):
        return _appended(ours, theirs, KEYS.get(name, "name"))
    return theirs


def _appended(ours: list[Any], theirs: list[Any], key: str) -> list[Any]:
    names = [_name(one, key) for one in theirs]
    kept = [one for one in ours if _name(one, key) is None or _name(one, key) not in names]
    return [*kept, *(one for one in theirs if one not in kept)]


def _name(element: Any, key: str) -> Any:
    return element.get(key) if isinstance(element, Mapping) else None
