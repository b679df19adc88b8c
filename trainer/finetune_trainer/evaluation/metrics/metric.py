"""What a metric of answers is."""

from __future__ import annotations

from typing import Protocol


class Metric(Protocol):
    """Compares one answer of a model with the record's own; pure."""

    def problem(self, reference: str) -> str | None:
        """Why a record with this answer cannot be scored, in words that name no content; None if it can."""
        ...

    def score(self, answer: str, reference: str) -> float:
        """From 0 to 1, more is better; `reference` has no `problem`."""
        ...
