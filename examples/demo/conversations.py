"""Questions about functions and classes, answered by what their docstrings say."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

from docstrings import Docstring
from sections import Entries, Sections, parse

Message = dict[str, str]
Conversation = list[Message]
Choice = TypeVar("Choice")

MAX_PARAMETERS = 4
"""Functions with more are asked about one of them, so that no answer is a list that was cut."""

PURPOSE = (
    "What does `{call}` do?",
    "What is `{call}` for?",
    "Explain `{call}` in one sentence.",
    "What is the purpose of `{call}`?",
)
PARAMETERS = ("Which parameters does `{call}` take?", "What do the parameters of `{call}` mean?")
PARAMETER = ("What does the parameter `{parameter}` of `{call}` mean?", "In `{call}`, what is `{parameter}`?")
RETURNS = ("What does `{call}` return?", "What do I get back from `{call}`?")
RAISES = ("Which errors does `{call}` raise?", "How can `{call}` fail?")
FOLLOW_UPS: dict[tuple[str, ...], str] = {
    PARAMETERS: "Which parameters does it take?",
    PARAMETER: "What does `{parameter}` mean?",
    RETURNS: "What does it return?",
    RAISES: "Which errors does it raise?",
}


def number(*parts: str) -> int:
    """A number of 64 bits that depends on `parts` only: the source of every choice here, on any machine."""
    return int.from_bytes(blake2b("\0".join(parts).encode(), digest_size=8).digest(), "big")


def conversations(docstring: Docstring) -> list[Conversation]:
    """What can be asked about `docstring`: one conversation per question, or, for a third, all questions in one."""
    turns = _turns(docstring, parse(docstring.text))
    if len(turns) > 1 and number("joined", docstring.name) % 3 == 0:
        questions = [_first(*turns[0]), *(_format(FOLLOW_UPS[kind], values) for kind, values, _ in turns[1:])]
        return [_messages(questions, [answer for _, _, answer in turns])]
    return [_messages([_first(*turn)], [turn[2]]) for turn in turns]


Turn = tuple[tuple[str, ...], dict[str, str], str]
"""Phrasings of a question, what is filled in, and the answer."""


def _turns(docstring: Docstring, sections: Sections) -> list[Turn]:
    values = {"call": docstring.name + docstring.signature}
    turns: list[Turn] = []
    if sections.summary:
        turns.append((PURPOSE, values, sections.summary))
    if 1 < len(sections.parameters) <= MAX_PARAMETERS:
        turns.append((PARAMETERS, values, _list(sections.parameters)))
    elif sections.parameters:
        name, text = _choose(sections.parameters, "parameter", docstring.name)
        turns.append((PARAMETER, values | {"parameter": name}, text))
    if sections.returns:
        turns.append((RETURNS, values, sections.returns))
    if sections.raises:
        turns.append((RAISES, values, _list(sections.raises)))
    return turns


def _list(entries: Entries) -> str:
    return "\n".join(f"- `{name}`: {text}" for name, text in entries)


def _first(phrasings: tuple[str, ...], values: dict[str, str], answer: str) -> str:
    return _format(_choose(phrasings, "phrasing", values["call"], answer), values)


def _format(phrasing: str, values: dict[str, str]) -> str:
    return phrasing.format_map(values)


def _choose(choices: Sequence[Choice], *key: str) -> Choice:
    return choices[number(*key) % len(choices)]


def _messages(questions: list[str], answers: list[str]) -> Conversation:
    return [
        {"role": role, "content": content}
        for question, answer in zip(questions, answers, strict=True)
        for role, content in (("user", question), ("assistant", answer))
    ]
