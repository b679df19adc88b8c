"""How many bad records a run puts up with, and what it says when there are more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from finetune_trainer.data.block import BlockRows, Quarantined
from finetune_trainer.errors import DataError

SHOWN = 5
# So many unusable records in a row, with no good one before them, mean a wrong source: where one record in 100 is good,
# that happens once in 23,000 runs.
HOPELESS = 1000

OnBad = Callable[[Quarantined], None]


class BadRecordBudget:
    """Hands every bad record on, and fails once there are more of them than `max_ratio` of the records."""

    def __init__(self, max_ratio: float, on_bad: OnBad | None) -> None:
        self._max_ratio = max_ratio
        self._on_bad = on_bad
        self._first: list[Quarantined] = []

    def spend(self, block: BlockRows, bad: int, seen: int, records: int, what: str) -> None:
        """Take note of a block's bad records: with them, `bad` of the first `seen` of all `records` of `what` are bad.

        Raises DataError, with the ids and reasons of the first ones, over the budget, and whatever the budget is when
        none of the first `HOPELESS` records, or of all where they are fewer, can be used.
        """
        for record in block.bad:
            if self._on_bad:
                self._on_bad(record)
        self._first = (self._first + block.bad)[:SHOWN]
        if bad == seen >= hopeless(records):
            raise DataError(
                f"{what}: none of {seen} records in a row can be used: {_listed(self._first)}; repair them, or correct "
                "format and columns of their source"
            )
        if bad > self._max_ratio * records:
            raise DataError(
                f"{bad} of the {records} records of {what} cannot be used, more than {self._max_ratio:g} of them "
                f"(spec.data.badRecords.maxRatio): {_listed(self._first)}; repair them, or raise the ratio"
            )


def hopeless(records: int) -> int:
    """How many of the first of `records` records have to be of no use before the rest is given up."""
    return min(HOPELESS, records)


def _listed(records: Sequence[Quarantined]) -> str:
    return "; ".join(f"{record.record}: {record.reason}" for record in records)
