"""Held-out loss, weighted by tokens over all micro-batches and ranks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch

from finetune_trainer.data import Counters, EvalSet
from finetune_trainer.engine.batch import Forward, kept_tokens
from finetune_trainer.engine.collectives import ControlGroup
from finetune_trainer.errors import DataError


@dataclass(frozen=True)
class Evaluation:
    """`losses`: nats per kept token of each named set; `mean`: of all their tokens together; `tokens`: these tokens.

    `counts`: what became of each set's records, on all ranks together.
    """

    mean: float
    losses: dict[str, float]
    tokens: int
    counts: dict[str, Counters]


def evaluate(
    engine: Any,
    forward: Forward,
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
    sums: dict[str, tuple[float, float]] = {}
    for number, (name, held_out) in enumerate(sets.items()):
        sums[name] = _evaluate_one(engine, forward, held_out, batch_size, control, between_batches)
        if not sums[name][1]:
            raise DataError(_without_tokens(f"spec.data.eval[{number}]", held_out))
    engine.train()
    counted = [pair for name, pair in sums.items() if name not in beside]
    total_loss, total_tokens = (sum(values) for values in zip(*counted, strict=True))
    losses = {name: loss / tokens for name, (loss, tokens) in sums.items()}
    counts = {name: held_out.counters or Counters() for name, held_out in sets.items()}
    return Evaluation(total_loss / total_tokens, losses, int(total_tokens), counts)


@torch.no_grad()
def _evaluate_one(
    engine: Any,
    forward: Forward,
    held_out: EvalSet,
    batch_size: int,
    control: ControlGroup,
    between_batches: Callable[[], None],
) -> tuple[float, float]:
    loss = torch.zeros((), dtype=torch.float64, device=forward.device)
    tokens = 0
    with closing(held_out.micro_batches(batch_size)) as batches:
        for rows in batches:
            between_batches()
            loss += forward(engine, rows)
            tokens += kept_tokens(rows)
    total_loss, total_tokens = control.sum([loss.item(), float(tokens)])
    return total_loss, total_tokens


def _without_tokens(field: str, held_out: EvalSet) -> str:
    counts = held_out.counters or Counters()
    return (
        f"{field}: the held-out set {held_out.name!r} has no token to predict: of its {counts.records} records "
        f"{counts.dropped} are longer than spec.data.maxLength and were dropped, {counts.bad} cannot be used. Give it "
        "records with answers that fit, write spec.data.overlong: Truncate or Split, or leave the set out"
    )
