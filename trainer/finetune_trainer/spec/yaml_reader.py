"""Strict YAML 1.2: the core schema's scalars, one document, no duplicate keys, bounded size and aliases.

The parser is ruamel's; the values are made here, because its 1.2 mode still reads timestamps, octals such as `010` and
merge keys the old way, does not read `2e-4` as a number, and unfolds aliases without a bound.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from finetune_trainer.errors import Problem

MAX_CHARACTERS = 1_048_576  # etcd refuses larger objects anyway
MAX_NODES = 20_000
MAX_DEPTH = 32

# YAML 1.2.2, section 10.3.2 (core schema).
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SURROGATE = re.compile("[\ud800-\udfff]")
_INFINITY = re.compile(r"([-+]?)\.(inf|Inf|INF)")
_CONSTANTS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


class YamlProblem(Exception):
    """The text is no manifest in YAML; `problem` says where and why."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(str(problem))


def read_yaml(text: str) -> Any:
    """Returns the only document in `text` as dicts, lists, str, int, float, bool and None; raises `YamlProblem`."""
    if len(text) > MAX_CHARACTERS:
        raise YamlProblem(Problem("manifest", f"{len(text)} characters", f"write at most {MAX_CHARACTERS} characters"))
    try:
        return _Reader(iter(YAML(typ="safe", pure=True).parse(text))).read()
    except MarkedYAMLError as error:
        raise _syntax_problem(error) from error
    except (YAMLError, ValueError) as error:
        cause = " ".join(str(error).split())
        raise YamlProblem(Problem("manifest", "unreadable text", f"is no valid YAML: {cause}")) from error


def core_scalar(text: str) -> Any:
    """What the plain scalar `text` means in YAML 1.2's core schema: `2e-4` a float, `on` a string."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _OCTAL.fullmatch(text) or _HEX.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if infinity := _INFINITY.fullmatch(text):
        return float(f"{infinity[1]}inf")
    return text


def _syntax_problem(error: MarkedYAMLError) -> YamlProblem:
    mark = error.problem_mark or error.context_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "manifest"
    cause = ", ".join(part for part in (error.context, error.problem) if part)
    line = mark.get_snippet(indent=0, max_length=80) if mark else None
    found = line.splitlines()[0].strip() if line else "this text"
    return YamlProblem(Problem(place, found, f"is no valid YAML: {cause}; check indentation, colons and quotes here"))


class _Reader:
    """Makes values from parser events, in one pass."""

    def __init__(self, events: Iterator[Event]) -> None:
        self._events = events
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._nodes = 0

    def read(self) -> Any:
        documents = 0
        value: Any = None
        for event in self._events:
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._refuse(event, "---", "a second document begins here: write one manifest per file")
                value = self._value(next(self._events), depth=0)
        return value

    def _value(self, event: Event, depth: int) -> Any:
        if isinstance(event, AliasEvent):
            return self._alias(event)
        if depth > MAX_DEPTH:
            raise self._refuse(event, f"depth {depth}", f"is nested too deeply: write at most {MAX_DEPTH} levels")
        before = self._nodes
        self._count(event, 1)
        if isinstance(event, ScalarEvent):
            value = self._scalar(event)
        elif isinstance(event, SequenceStartEvent):
            value = self._sequence(event, depth)
        else:
            assert isinstance(event, MappingStartEvent)
            value = self._mapping(event, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, self._nodes - before)
        return value

    def _alias(self, event: AliasEvent) -> Any:
        if event.anchor not in self._anchors:
            raise self._refuse(event, f"*{event.anchor}", f"names no anchor before it: write &{event.anchor} earlier")
        value, size = self._anchors[event.anchor]
        self._count(event, size)
        return value

    def _scalar(self, event: ScalarEvent) -> Any:
        self._refuse_tag(event)
        text = self._text(event)
        return text if event.style else core_scalar(text)

    def _sequence(self, start: SequenceStartEvent, depth: int) -> list[Any]:
        self._refuse_tag(start)
        items: list[Any] = []
        for event in self._events:
            if isinstance(event, SequenceEndEvent):
                break
            items.append(self._value(event, depth + 1))
        return items

    def _mapping(self, start: MappingStartEvent, depth: int) -> dict[str, Any]:
        self._refuse_tag(start)
        lines: dict[str, int] = {}
        mapping: dict[str, Any] = {}
        for event in self._events:
            if isinstance(event, MappingEndEvent):
                break
            key = self._key(event)
            if key in lines:
                message = f"stands twice in one mapping, first on line {lines[key]}: keep one of the two"
                raise self._refuse(event, key, message)
            lines[key] = event.start_mark.line + 1
            mapping[key] = self._value(next(self._events), depth + 1)
        return mapping

    def _key(self, event: Event) -> str:
        if not isinstance(event, ScalarEvent):
            raise self._refuse(event, "a key that is no text", "is no field name: write a name followed by a colon")
        if event.value == "<<" and event.style is None:
            raise self._refuse(event, "<<", "is a merge key of YAML 1.1: write the fields out")
        return self._text(event)

    def _text(self, event: ScalarEvent) -> str:
        if not _SURROGATE.search(event.value):
            return str(event.value)
        try:  # JSON writes characters above U+FFFF as two escapes
            return str(event.value).encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            message = "holds half a character (a lone surrogate): write it in full"
            raise self._refuse(event, ascii(event.value), message) from None

    def _refuse_tag(self, event: ScalarEvent | SequenceStartEvent | MappingStartEvent) -> None:
        if event.tag is not None:
            raise self._refuse(event, str(event.tag), "is a tag: write the value without it, in quotes if it is text")

    def _count(self, event: Event, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise self._refuse(event, f"{self._nodes} values", f"write at most {MAX_NODES} values, aliases unfolded")

    @staticmethod
    def _refuse(event: Event, value: str, message: str) -> YamlProblem:
        mark = event.start_mark
        return YamlProblem(Problem(f"line {mark.line + 1}, column {mark.column + 1}", value, message))
