"""What a pattern finds in an answer."""

from __future__ import annotations

import re


class Regex:
    """1 where the pattern's last match in the model's answer is that in the record's: its first group, or all of it.

    The last one, because answers that reason name their result at the end. White space at its ends does not count.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = re.compile(pattern)

    def problem(self, reference: str) -> str | None:
        """The pattern must match in the record's own answer."""
        return None if self._found(reference) is not None else "the pattern matches nowhere in its answer"

    def score(self, answer: str, reference: str) -> float:
        """1.0 or 0.0."""
        return float(self._found(answer) == self._found(reference))

    def _found(self, text: str) -> str | None:
        matches = list(self._pattern.finditer(text))
        if not matches:
            return None
        return (matches[-1].group(1 if self._pattern.groups else 0) or "").strip()
