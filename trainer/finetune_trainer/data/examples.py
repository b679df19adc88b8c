"""What every format becomes: a conversation, a prompt with its completion, or a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class BadRecord(Exception):
    """A record that cannot be trained on; the reason names no content beyond keys and roles, for it goes into logs."""


@dataclass(frozen=True, slots=True)
class Chat:
    """`messages` as chat templates take them; `trained`: indices of the assistant messages that are trained."""

    messages: list[dict[str, Any]]
    trained: tuple[int, ...]
    tools: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """`completion` follows `prompt` directly; only it is trained."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Text:
    """A document that is trained as a whole."""

    text: str


Example = Chat | Completion | Text
