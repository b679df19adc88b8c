"""Every field of the manifest as a flat table, read off the types: for messages, for the reference, for schemas."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from finetune_trainer.spec.base import Part
from finetune_trainer.spec.job import FineTuneJob


@dataclass(frozen=True)
class Entry:
    """One field: `path` has `[]` for any element of a list; `core` is its type without Optional, Annotated and list."""

    path: str
    core: Any
    is_list: bool
    required: bool
    default: Any
    description: str
    bounds: tuple[Any, ...]

    @property
    def name(self) -> str:
        """The field's own name, as the manifest writes it."""
        return self.path.rpartition(".")[2].removesuffix("[]")

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of an enum or literal; empty for all other types."""
        if isinstance(self.core, type) and issubclass(self.core, StrEnum):
            return tuple(self.core)
        return get_args(self.core) if get_origin(self.core) is Literal else ()

    @property
    def part(self) -> type[Part] | None:
        """The type of an object's members; None for all other types."""
        return self.core if isinstance(self.core, type) and issubclass(self.core, Part) else None

    @property
    def is_map(self) -> bool:
        """Whether names are free: labels, columns, overrides."""
        return get_origin(self.core) is dict


@cache
def entries() -> dict[str, Entry]:
    """All fields by path, in the manifest's order."""
    return {entry.path: entry for entry in walk(FineTuneJob)}


def member_names(path: str) -> tuple[str, ...]:
    """Names of the fields of the object at `path` (with `[]` for list elements); "" is the manifest itself."""
    prefix = f"{path}." if path else ""
    inner = (entry.path[len(prefix) :] for entry in entries().values() if entry.path.startswith(prefix))
    return tuple(name for name in inner if "." not in name)


def walk(model: type[Part], prefix: str = "") -> Iterator[Entry]:
    """All fields of `model` and of the objects in it, in their order; `prefix` is empty or ends with a dot."""
    for field in model.model_fields.values():
        entry = _entry(field, prefix)
        yield entry
        if entry.part:
            yield from walk(entry.part, f"{entry.path}{'[]' if entry.is_list else ''}.")


def _entry(field: FieldInfo, prefix: str) -> Entry:
    core, is_list, bounds = _unwrap(field.annotation, tuple(field.metadata))
    default = None if field.is_required() else field.get_default(call_default_factory=True, validated_data={})
    description = " ".join((field.description or "").split())
    return Entry(f"{prefix}{field.alias}", core, is_list, field.is_required(), default, description, bounds)


def _unwrap(annotation: Any, bounds: tuple[Any, ...]) -> tuple[Any, bool, tuple[Any, ...]]:
    """The type within Optional, Annotated and variadic tuples; the bounds are those of the innermost."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *metadata = get_args(annotation)
        return _unwrap(inner, tuple(_flat_metadata(metadata)))
    if origin in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        return _unwrap(members[0], bounds) if len(members) == 1 else (annotation, False, bounds)
    if origin is tuple:
        core, _, inner_bounds = _unwrap(get_args(annotation)[0], ())
        return core, True, inner_bounds
    return annotation, False, bounds


def _flat_metadata(metadata: list[Any]) -> Iterator[Any]:
    for item in metadata:
        yield from item.metadata if isinstance(item, FieldInfo) else (item,)
