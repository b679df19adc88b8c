"""Globs over object keys: `*`, `**`, `?`, `[a-z]`, `[!a]`, `{a,b}`. Pure: no store is touched here.

`*` and `?` stay within one segment; a segment `**` stands for any number of segments, none included. Every other
character, a dot at the start of a name too, stands for itself.
"""

from __future__ import annotations

import re

MAGIC = re.compile(r"[*?\[{]")


def has_magic(text: str) -> bool:
    """Whether `text` is a pattern rather than one key."""
    return MAGIC.search(text) is not None


def expand_braces(pattern: str) -> list[str]:
    """`a{b,c}d` is `abd` and `acd`; braces nest; a brace without a comma or a partner stands for itself."""
    start = pattern.find("{")
    while start >= 0:
        options, end = _options(pattern, start)
        if len(options) > 1:
            tails = expand_braces(pattern[end:])
            heads = [pattern[:start] + inner for option in options for inner in expand_braces(option)]
            return [head + tail for head in heads for tail in tails]
        start = pattern.find("{", start + 1)
    return [pattern]


def _options(pattern: str, start: int) -> tuple[list[str], int]:
    """The texts between the commas of the brace opened at `start`, and the index behind it; none if it stays open."""
    depth, begin = 0, start + 1
    options: list[str] = []
    for index in range(start, len(pattern)):
        character = pattern[index]
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return [*options, pattern[begin:index]], index + 1
        if depth == 1 and character == ",":
            options.append(pattern[begin:index])
            begin = index + 1
    return [], len(pattern)


def literal_prefix(pattern: str) -> str:
    """The part of a brace-free pattern that every matching key begins with."""
    found = MAGIC.search(pattern)
    return pattern if found is None else pattern[: found.start()]


def compile_glob(pattern: str) -> re.Pattern[str]:
    """The regular expression, for `fullmatch`, of a brace-free pattern; ValueError for an unclosed bracket."""
    segments = pattern.split("/")
    parts = []
    for index, segment in enumerate(segments):
        last = index == len(segments) - 1
        if segment == "**":
            parts.append(".*" if last else "(?:[^/]+/)*")
        else:
            parts.append(_segment(segment, pattern) + ("" if last else "/"))
    return re.compile("".join(parts), re.DOTALL)


def _segment(segment: str, pattern: str) -> str:
    text, index = "", 0
    while index < len(segment):
        character = segment[index]
        if character == "[":
            inner, index = _bracket(segment, index, pattern)
            text += inner
            continue
        text += {"*": "[^/]*", "?": "[^/]"}.get(character) or re.escape(character)
        index += 1
    return text


def _bracket(segment: str, start: int, pattern: str) -> tuple[str, int]:
    """A character class and the index behind it; a `]` right after `[` or `[!` belongs to the class."""
    negated = segment[start + 1 : start + 2] in ("!", "^")
    begin = start + 2 if negated else start + 1
    end = segment.find("]", begin + 1)
    if end < 0:
        raise ValueError(f"{pattern!r} has a '[' without a ']': close it, or write [[] for the character itself")
    inner = re.sub(r"([\\\[\]^&|~])", r"\\\1", segment[begin:end])
    try:
        re.compile(f"[{inner}]")
    except re.error as error:
        raise ValueError(f"{pattern!r} has the character class [{segment[begin:end]}] that is none: {error}") from error
    return f"(?!/)[{'^' if negated else ''}{inner}]", end + 1
