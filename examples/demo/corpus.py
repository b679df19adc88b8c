"""A data set of the docstrings on this machine: text to pre-train on, conversations to fine-tune on, held-out parts.

Everything is a pure function of the installed source files: sorted, chosen by hashes, no clock and no random numbers.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from conversations import Conversation, conversations, number
from docstrings import Docstring

MAX_CHARACTERS = 600
"""Of a docstring, the leading paragraphs up to this length are taken: the rest is mostly examples."""

HELD_OUT = 12
"""One of so many groups of docstrings is held out."""

SHINGLE = 5
"""Words that must agree in a row to count as copied; overlaps of 8 to 13 words are usual for whole web pages."""

MAX_COPIED = 0.3
"""Share of a held-out docstring's shingles that may stand in the training part."""

_EXAMPLE = re.compile(r"^\s*(>>>|\.\.\. |In \[\d+\]|```)", re.MULTILINE)

_LAST_HEADING = re.compile(r"(\n\n|^)[A-Z][\w ]*(:|\n[-=~]{3,})\s*$")


@dataclass(frozen=True)
class Size:
    """How much is taken: docstrings per package to train on, held-out docstrings, conversations to train on."""

    per_package: int
    held_out: int
    conversations: int


@dataclass(frozen=True)
class Corpus:
    """Docstrings to train on and held out, in a fixed order that mixes the packages, and how many were left out why."""

    train: tuple[Docstring, ...]
    held_out: tuple[Docstring, ...]
    counts: dict[str, int]


def choose(found: Iterable[Docstring], size: Size) -> Corpus:
    """Filter, deduplicate, split and cut to `size`; no text and no near-copy of one is in both parts."""
    candidates = sorted(found)
    usable = [cut for docstring in candidates if (cut := usable_part(docstring)) is not None]
    unique = list({_normal(docstring.text): docstring for docstring in reversed(usable)}.values())
    train = _per_package([docstring for docstring in unique if not is_held_out(docstring)], size.per_package)
    kept = _not_copied([docstring for docstring in unique if is_held_out(docstring)], train)
    held_out = _shuffled(kept)[: size.held_out]
    counts = {"found": len(candidates), "usable": len(usable), "unique": len(unique), "held-out candidates": len(kept)}
    return Corpus(tuple(train), tuple(held_out), counts | {"train": len(train), "held out": len(held_out)})


def usable_part(docstring: Docstring) -> Docstring | None:
    """`docstring` with its leading paragraphs, or None if it is too short, no English prose, or only examples."""
    text = ""
    for paragraph in docstring.text.split("\n\n"):
        if _EXAMPLE.search(paragraph) or len(text) + len(paragraph) > MAX_CHARACTERS:
            break
        text = f"{text}\n\n{paragraph}" if text else paragraph
    text = _LAST_HEADING.sub("", text).strip()
    letters = sum(character.isalpha() or character == " " for character in text)
    if len(text.split()) < 5 or not text.isascii() or letters < 0.75 * len(text):
        return None
    return Docstring(docstring.package, docstring.name, docstring.signature, text)


def is_held_out(docstring: Docstring) -> bool:
    """Whether `docstring` belongs to the held-out part, decided by its first sentence without digits and symbols.

    Overloads and families such as Conv1d, Conv2d, Conv3d share that sentence, and so fall on the same side.
    """
    first = re.split(r"\.\s|\n\n", docstring.text, maxsplit=1)[0]
    return number("held out", _letters(first)) % HELD_OUT == 0


def document(docstring: Docstring) -> str:
    """The text to pre-train on: dotted name with signature, an empty line, the docstring."""
    return f"{docstring.name}{docstring.signature}\n\n{docstring.text}"


def chats(docstrings: Iterable[Docstring], limit: int) -> list[Conversation]:
    """At most `limit` conversations about `docstrings`, chosen and ordered by hash."""
    found = [conversation for docstring in docstrings for conversation in conversations(docstring)]
    return sorted(found, key=lambda chat: number("chat", *(message["content"] for message in chat)))[:limit]


def shingles(text: str) -> set[str]:
    """Every run of `SHINGLE` words of `text`, or all of a shorter one."""
    words = _letters(text).split()
    return {" ".join(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))}


def _not_copied(held_out: list[Docstring], train: list[Docstring]) -> list[Docstring]:
    seen = set().union(*(shingles(docstring.text) for docstring in train))
    return [d for d in held_out if len(own := shingles(d.text)) and len(own & seen) <= MAX_COPIED * len(own)]


def _per_package(docstrings: list[Docstring], limit: int) -> list[Docstring]:
    packages: dict[str, list[Docstring]] = defaultdict(list)
    for docstring in _shuffled(docstrings):
        packages[docstring.package].append(docstring)
    return _shuffled([docstring for package in packages.values() for docstring in package[:limit]])


def _shuffled(docstrings: list[Docstring]) -> list[Docstring]:
    return sorted(docstrings, key=lambda docstring: number("order", docstring.name, docstring.text))


def _normal(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def _letters(text: str) -> str:
    return re.sub(r"[^a-z]+", " ", text.lower()).strip()
