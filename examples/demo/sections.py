"""The parts of a docstring in Google, NumPy or Sphinx style: summary, parameters, returned value, errors."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

Entries = tuple[tuple[str, str], ...]

MAX_SENTENCE = 160
"""Characters; a longer sentence is left out rather than cut."""

_KINDS = {
    "args": "parameters",
    "arguments": "parameters",
    "parameters": "parameters",
    "params": "parameters",
    "return": "returns",
    "returns": "returns",
    "raises": "raises",
}
_HEADING = re.compile(r"^[A-Z][A-Za-z ]{2,30}:{0,2}$")
_UNDERLINE = re.compile(r"^(-{3,}|={3,}|~{3,})$")
_FIELD = re.compile(r"^:(param|parameter|arg|returns?|raises?)\b([^:]*):\s*(.*)$")
_GOOGLE_ENTRY = re.compile(r"^[-*\s`]*([A-Za-z_][\w.]*)[*`]*\s*(?:\(.*?\))?\s*(?::|--)\s+(.*)$")
_NUMPY_ENTRY = re.compile(r"^[*`]*([A-Za-z_][\w.]*)[*`]*(?:\s*,.*)?\s*(?::.*)?$")
_ROLE = re.compile(r"(?::[a-z]+)+:`~?([^`<]+?)(?:\s*<[^>]*>)?`")
_SUMMARY_END = re.compile(r"\n\n|\n\s*(?=[:*-])")
_SENTENCE_END = re.compile(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!etc\.)\s+(?=[A-Z`*(\"'\[])")


@dataclass(frozen=True)
class Sections:
    """What a docstring says, one sentence each and empty where it says nothing; entries are (name, sentence)."""

    summary: str
    parameters: Entries = ()
    returns: str = ""
    raises: Entries = ()


def parse(text: str) -> Sections:
    """Take `text`, as `inspect.cleandoc` returns it, apart; what does not look like a section is not one."""
    lines = text.splitlines()
    bodies = dict(_bodies(lines))
    fields = list(_fields(lines))
    google = bool(bodies) and not any(_UNDERLINE.match(line.strip()) for line in lines)
    entry = _GOOGLE_ENTRY if google else _NUMPY_ENTRY
    return Sections(
        summary=sentence(_SUMMARY_END.split(text, maxsplit=1)[0]),
        parameters=_entries(bodies.get("parameters", []), entry) or _named(fields, "parameters"),
        returns=_returned(bodies.get("returns", []), google) or dict(_unnamed(fields)).get("returns", ""),
        raises=_entries(bodies.get("raises", []), entry) or _named(fields, "raises"),
    )


def sentence(text: str) -> str:
    """The first sentence of `text` on one line, with a full stop; empty if it is too short, too long or code."""
    plain = _ROLE.sub(r"`\1`", " ".join(text.split())).replace("``", "`")
    first = _SENTENCE_END.split(plain, maxsplit=1)[0].rstrip(" :;,")
    if not 10 <= len(first) <= MAX_SENTENCE or " " not in first or ">>>" in first or first.startswith((":", "..", "#")):
        return ""
    return first if first.endswith((".", "!", "?")) else first + "."


def _bodies(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Kind and dedented lines of each section that has one of our headings."""
    heads = [i for i in range(len(lines)) if _is_heading(lines, i)]
    for start, end in pairwise([*heads, len(lines)]):
        kind = _KINDS.get(lines[start].strip().rstrip(":").lower())
        if kind is not None:
            underlined = start + 1 < len(lines) and bool(_UNDERLINE.match(lines[start + 1].strip()))
            body = lines[start + 1 + underlined : end]
            yield kind, _block(body, indented=not underlined)


def _is_heading(lines: list[str], i: int) -> bool:
    line = lines[i].strip()
    underlined = i + 1 < len(lines) and bool(_UNDERLINE.match(lines[i + 1].strip()))
    return bool(_HEADING.match(line)) and (underlined or line.endswith(":"))


def _block(body: list[str], *, indented: bool) -> list[str]:
    """A section under `Args:` ends where the indentation does."""
    if indented:
        end = next((i for i, line in enumerate(body) if line[:1].strip()), len(body))
        body = body[:end]
    return textwrap.dedent("\n".join(body)).strip("\n").splitlines()


def _entries(body: list[str], pattern: re.Pattern[str]) -> Entries:
    found = []
    for head, rest in _hanging(body):
        if match := pattern.match(head + (" " if pattern is _GOOGLE_ENTRY else "")):
            text = " ".join([*match.groups()[1:], *rest])
            found.append((match[1], sentence(text)))
    return tuple((name, text) for name, text in found if text)


def _hanging(body: list[str]) -> Iterator[tuple[str, list[str]]]:
    """First line of each entry and its deeper lines up to the first empty one."""
    starts = [i for i, line in enumerate(body) if line[:1].strip()]
    for start, end in pairwise([*starts, len(body)]):
        rest = [line.strip() for line in body[start + 1 : end]]
        yield body[start], rest[: rest.index("")] if "" in rest else rest


def _returned(body: list[str], google: bool) -> str:
    if not body:
        return ""
    if google:
        match = re.match(r"^[-\s]*[`*\w\[\], .|]+:\s+(.*)$", body[0])
        return sentence(" ".join([match[1] if match else body[0], *body[1:]]))
    _, rest = next(_hanging(body), ("", []))
    return sentence(" ".join(rest))


def _fields(lines: list[str]) -> Iterator[tuple[str, str, str]]:
    """Kind, name (empty for what is returned) and text of each Sphinx field."""
    for i, line in enumerate(lines):
        if match := _FIELD.match(line.strip()):
            more = []
            for following in lines[i + 1 :]:
                if not following.strip() or _FIELD.match(following.strip()) or following.strip().startswith(":"):
                    break
                more.append(following)
            kind = "parameters" if match[1] in ("param", "parameter", "arg") else match[1].rstrip("s") + "s"
            yield kind, match[2].split()[-1] if match[2].split() else "", " ".join([match[3], *more])


def _named(fields: list[tuple[str, str, str]], kind: str) -> Entries:
    found = ((name, sentence(text)) for field, name, text in fields if field == kind and name)
    return tuple((name, text) for name, text in found if text)


def _unnamed(fields: list[tuple[str, str, str]]) -> Iterator[tuple[str, str]]:
    return ((kind, sentence(text)) for kind, name, text in fields if not name)
