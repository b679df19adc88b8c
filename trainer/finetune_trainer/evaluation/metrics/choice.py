"""Which one of a few answers a text gives."""

from __future__ import annotations

import re
from collections.abc import Sequence


class Choice:
    """1 where the model's answer gives the same one of `choices` as the record's.

    The choice that stands first in a text is the one given, as a word of its own and whatever its case; of two that
    begin at the same place, the longer one.
    """

    def __init__(self, choices: Sequence[str]) -> None:
        ordered = sorted(set(choices), key=len, reverse=True)
        self._pattern = re.compile("|".join(rf"(?<!\w){re.escape(text)}(?!\w)" for text in ordered), re.IGNORECASE)

    def problem(self, reference: str) -> str | None:
        """The record's own answer must give one of them."""
        return None if self._given(reference) is not None else "its answer is none of the choices"

    def score(self, answer: str, reference: str) -> float:
        """1.0 or 0.0."""
        return float(self._given(answer) == self._given(reference))

    def _given(self, text: str) -> str | None:
        found = self._pattern.search(text)
        return found.group().lower() if found else None
