"""What every format becomes: a conversation, a prompt with its completion, a text, or what was said about these."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import nan
from typing import Any


class BadRecord(Exception):
    """A record that cannot be trained on; the reason names no content beyond keys and roles, for it goes into logs."""


@dataclass(frozen=True, slots=True)
class Chat:
    """`messages` as chat templates take them; `trained`: indices of the assistant messages that are trained.

    `weights`: those that messages have of their own, by index.
    """

    messages: list[dict[str, Any]]
    trained: tuple[int, ...]
    tools: list[dict[str, Any]] | None = None
    weights: dict[int, float] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class Completion:
    """`completion` follows `prompt` directly; only it is trained."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Text:
    """A document that is trained as a whole."""

    text: str


Written = Chat | Completion | Text
"""What is rendered as one text."""


@dataclass(frozen=True, slots=True)
class Preference:
    """Two answers to one prompt, the first one better; `margin`: by how much, where that is known."""

    chosen: Chat | Completion
    rejected: Chat | Completion
    margin: float | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """A text and the numbers that its record gives for it."""

    answer: Written
    targets: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text or conversation to be read, and the label that its record gives it, as it stands there."""

    text: Written
    given: object


Example = Written | Preference | Judged | Labelled


def texts_of(example: Example | BadRecord) -> tuple[Written | BadRecord, ...]:
    """What is rendered of an example, each as a text of its own."""
    if isinstance(example, Preference):
        return example.chosen, example.rejected
    if isinstance(example, Labelled):
        return (example.text,)
    return (example.answer,) if isinstance(example, Judged) else (example,)


def targets_of(example: Preference | Judged) -> tuple[float, ...]:
    """The numbers that go with an example's tokens; of a pair its margin, NaN where it has none."""
    if isinstance(example, Judged):
        return example.targets
    return (nan if example.margin is None else example.margin,)
