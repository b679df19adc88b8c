"""ROUGE-L (Lin, 2004): the longest common subsequence of words as an F1.

The same numbers as `rouge-score`, Google's, without its stemmer; that library, last released in 2022, drops every
letter outside of ASCII, so words are Unicode's here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

_WORD = re.compile(r"[^\W_]+")


class RougeL:
    """F1 of the longest common subsequence of the words of both texts, without case."""

    def problem(self, reference: str) -> str | None:
        """An answer without words has no subsequence."""
        return None if _WORD.search(reference) else "its answer has no words"

    def score(self, answer: str, reference: str) -> float:
        """Twice the subsequence over the words of both."""
        one, other = _WORD.findall(answer.lower()), _WORD.findall(reference.lower())
        return 2 * _common(one, other) / (len(one) + len(other)) if one and other else 0.0


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        longer = [before + 1 if word == found else 0 for before, found in zip(row, other, strict=False)]
        new = [0]
        for at, (_, above) in enumerate(pairwise(row)):
            new.append(max(above, new[-1], longer[at]))
        row = new
    return row[-1]
