"""What an objective makes of each held-out record for itself, of the model in the engine, over all ranks.

For objectives that are no language modelling: there are no answers to generate, and a record is judged by the
objective's own metric (`Objective.judged_by`) and loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import isfinite, nan
from typing import Any

import torch

from finetune_trainer.data import EvalSet, Row, documents_of
from finetune_trainer.engine.collectives import ControlGroup
from finetune_trainer.engine.loss import Between, Objective
from finetune_trainer.evaluation.batches import Batch, on_all_ranks
from finetune_trainer.evaluation.sides import Side


def spread_rows(held_out: EvalSet, count: int, documents: int) -> list[Row]:
    """At most `count` records, spread evenly over the set, each in a row of its own; the same on every rank.

    `documents`: of a record.
    """
    total = held_out.index.records
    wanted = {number * total // min(count, total) for number in range(min(count, total))}
    rows = chain.from_iterable(rows for _, rows in held_out.parts(1))
    records = chain.from_iterable(documents_of(row, documents) for row in rows)
    return [record for place, record in enumerate(records) if place in wanted]


@dataclass(frozen=True)
class RecordScores:
    """Scores records one by one."""

    engine: Any
    objective: Objective
    control: ControlGroup

    def of(self, rows: Sequence[Row], between_batches: Between) -> Side:
        """Of rows of one record each; collective. Leaves the engine in evaluation mode.

        `between_batches` is called equally often on every rank, and ends it by raising.
        """
        if not rows:
            return Side()
        self.engine.eval()
        with torch.no_grad():
            whole = self.objective.prepare(self.engine, rows, self.control)

        def work(batch: Batch) -> list[tuple[float, float]]:
            return [self._score(rows[place], whole) for place in batch]

        found = on_all_ranks([[place] for place in range(len(rows))], work, self.control, between_batches)
        losses = {rows[place].records[0]: loss for place, (loss, _) in found.items() if isfinite(loss)}
        metric = self.objective.judged_by
        if metric is None:
            return Side(losses=losses)
        scores = {rows[place].records[0]: score for place, (_, score) in found.items() if isfinite(score)}
        return Side(losses=losses, scores={metric: scores})

    def constant(self, rows: Sequence[Row]) -> Side | None:
        """Of the best answer that is the same for every record; None where there is none."""
        values = self.objective.constant(rows) if rows else None
        if values is None:
            return None
        scores = {row.records[0]: value for row, value in zip(rows, values, strict=True)}
        metric = self.objective.judged_by
        return Side(losses=scores) if metric is None else Side(scores={metric: scores})

    @torch.no_grad()
    def _score(self, row: Row, whole: Any) -> tuple[float, float]:
        """Its loss, and what it scores by the objective's metric; nan for what there is none of."""
        loss, weight = self.objective.loss(self.engine, [row], whole), self.objective.weight([row])
        measured = self.objective.measured(loss.sums.view(-1).tolist())
        return loss.total.item() / weight if weight else nan, measured.get(self.objective.judged_by or "", nan)
