"""Exact match and F1 over words, as SQuAD's evaluation script has them (Rajpurkar et al., arXiv:1606.05250).

Texts are compared without case, punctuation, the articles `a`, `an` and `the`, and repeated white space. Punctuation is
Unicode's, not ASCII's alone.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

_ARTICLES = re.compile(r"\b(a|an|the)\b")


def words(text: str) -> list[str]:
    """The words that are compared."""
    kept = "".join(char for char in text.lower() if not _is_punctuation(char))
    return _ARTICLES.sub(" ", kept).split()


def _is_punctuation(char: str) -> bool:
    return unicodedata.category(char)[0] == "P" or char in "$+<=>^`|~"  # the rest of ASCII's punctuation


class ExactMatch:
    """1 where the words are the same ones in the same order; an answer of punctuation alone is compared as it is."""

    def problem(self, reference: str) -> str | None:
        """None: any text can be matched."""
        return None

    def score(self, answer: str, reference: str) -> float:
        """1.0 or 0.0."""
        one, other = words(answer), words(reference)
        return float(one == other if one or other else answer.strip() == reference.strip())


class TokenF1:
    """The harmonic mean of the shares of words of either text that the other has as well."""

    def problem(self, reference: str) -> str | None:
        """An answer without words has no shares."""
        return None if words(reference) else "its answer has no words"

    def score(self, answer: str, reference: str) -> float:
        """F1 of the words, each counted as often as it stands."""
        one, other = words(answer), words(reference)
        shared = (Counter(one) & Counter(other)).total()
        return 2 * shared / (len(one) + len(other)) if one and other else float(one == other)
