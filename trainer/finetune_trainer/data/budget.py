"""How many bad records a run puts up with, and what it says when there are more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from finetune_trainer.data.block import BlockRows, Quarantined
from finetune_trainer.errors import DataError

SHOWN = 5

OnBad = Callable[[Quarantined], None]


class BadRecordBudget:
    """Hands every bad record on, and fails once there are more of them than `max_ratio` of the records."""

    def __init__(self, max_ratio: float, on_bad: OnBad | None) -> None:
        self._max_ratio = max_ratio
        self._on_bad = on_bad
        self._first: list[Quarantined] = []

    def spend(self, block: BlockRows, bad: int, records: int, what: str) -> None:
        """Take note of a block's bad records; `bad` counts those among the `records` of `what` so far, these included.

        Raises DataError, with the ids and reasons of the first ones, over the budget and for a block without a good
        record.
        """
        for record in block.bad:
            if self._on_bad:
                self._on_bad(record)
        self._first = (self._first + block.bad)[:SHOWN]
        if block.bad and block.counters.bad == block.counters.records:
            raise DataError(f"none of {len(block.bad)} records in a row can be used: {_listed(block.bad[:SHOWN])}")
        if bad > self._max_ratio * records:
            raise DataError(
                f"{bad} of the {records} records of {what} cannot be used, more than {self._max_ratio:g} of them "
                f"(spec.data.badRecords.maxRatio): {_listed(self._first)}; repair them, or raise the ratio"
            )


def _listed(records: Sequence[Quarantined]) -> str:
    return "; ".join(f"{record.record}: {record.reason}" for record in records)
