"""Held-out loss and metrics, weighted as in training over all micro-batches and ranks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch

from finetune_trainer.data import Counters, EvalSet
from finetune_trainer.engine.batch import kept_tokens
from finetune_trainer.engine.collectives import ControlGroup
from finetune_trainer.engine.loss import Objective
from finetune_trainer.errors import DataError


@dataclass(frozen=True)
class Evaluation:
    """`losses`: the objective's loss of each named set (SFT: nats per kept token); `mean`: of all of them together.

    `tokens`: kept tokens. `counts`: what became of each set's records, on all ranks together. `metrics` and `details`:
    the objective's, by set.
    """

    mean: float
    losses: dict[str, float]
    tokens: int
    counts: dict[str, Counters]
    metrics: dict[str, dict[str, float]]
    details: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class _Found:
    """Sums over one set: of losses, of what they are divided by, of kept tokens, and `Loss.sums` end to end."""

    loss: float
    weight: float
    tokens: float
    sums: list[float]


def evaluate(
    engine: Any,
    objective: Objective,
    sets: Mapping[str, EvalSet],
    batch_size: int,
    control: ControlGroup,
    between_batches: Callable[[], None],
    beside: Collection[str] = (),
) -> Evaluation:
    """Evaluate the engine's model as it stands on every set; collective, and leaves the engine in training mode.

    `sets` are in the order of `spec.data.eval`. `between_batches` is called before each micro-batch, equally often on
    every rank, and ends the evaluation by raising. Sets named in `beside` are none of the mean, nor of `tokens`. Raises
    DataError when a set has no kept token.
    """
    engine.eval()
    found: dict[str, _Found] = {}
    for number, (name, held_out) in enumerate(sets.items()):
        found[name] = _evaluate_one(engine, objective, held_out, batch_size, control, between_batches)
        if not found[name].weight:
            raise DataError(_without_tokens(f"spec.data.eval[{number}]", held_out))
    engine.train()
    counted = [one for name, one in found.items() if name not in beside]
    return Evaluation(
        mean=sum(one.loss for one in counted) / sum(one.weight for one in counted),
        losses={name: one.loss / one.weight for name, one in found.items()},
        tokens=int(sum(one.tokens for one in counted)),
        counts={name: held_out.counters or Counters() for name, held_out in sets.items()},
        metrics={name: objective.measured(one.sums) for name, one in found.items()},
        details={name: objective.details(one.sums) for name, one in found.items()},
    )


@torch.no_grad()
def _evaluate_one(
    engine: Any,
    objective: Objective,
    held_out: EvalSet,
    batch_size: int,
    control: ControlGroup,
    between_batches: Callable[[], None],
) -> _Found:
    sums: torch.Tensor | None = None
    weight = tokens = 0.0
    with closing(held_out.parts(batch_size)) as parts:
        for micro_batches, all_rows in parts:
            whole = objective.prepare(engine, all_rows, control)
            weight += objective.weight(all_rows)
            tokens += kept_tokens(all_rows)
            for rows in micro_batches:
                between_batches()
                loss = objective.loss(engine, rows, whole)
                own = torch.cat([loss.total.double().view(1), loss.sums.view(-1)])
                sums = own if sums is None else sums + own
    mine = [0.0] * (1 + 2 * len(objective.metrics)) if sums is None else sums.tolist()
    total, *measured = control.sum(mine)
    return _Found(total, weight, tokens, measured)


def _without_tokens(field: str, held_out: EvalSet) -> str:
    counts = held_out.counters or Counters()
    return (
        f"{field}: the held-out set {held_out.name!r} has no token to predict: of its {counts.records} records "
        f"{counts.dropped} are longer than spec.data.maxLength and were dropped, {counts.bad} cannot be used. Give it "
        "records with answers that fit, write spec.data.overlong: Truncate or Split, or leave the set out"
    )
