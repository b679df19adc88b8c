"""Held-out loss, weighted by tokens over all micro-batches and ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from finetune_trainer.data import EvalSet
from finetune_trainer.engine.batch import Forward, kept_tokens
from finetune_trainer.engine.collectives import ControlGroup
from finetune_trainer.errors import DataError


@dataclass(frozen=True)
class Evaluation:
    """`losses`: nats per kept token of each named set; `mean`: of all their tokens together; `tokens`: kept tokens."""

    mean: float
    losses: dict[str, float]
    tokens: int


def evaluate(
    engine: Any, forward: Forward, sets: Mapping[str, EvalSet], batch_size: int, control: ControlGroup
) -> Evaluation:
    """Evaluate the engine's model as it stands on every set; collective, and leaves the engine in training mode.

    Raises DataError when a set has no kept token.
    """
    engine.eval()
    sums = {name: _evaluate_one(engine, forward, held_out, batch_size, control) for name, held_out in sets.items()}
    engine.train()
    empty = [name for name, (_, tokens) in sums.items() if tokens == 0]
    if empty:
        raise DataError(
            f"spec.data.eval: the set {empty[0]!r} has no token to predict; check its format and its answers"
        )
    total_loss, total_tokens = (sum(values) for values in zip(*sums.values(), strict=True))
    losses = {name: loss / tokens for name, (loss, tokens) in sums.items()}
    return Evaluation(total_loss / total_tokens, losses, int(total_tokens))


@torch.no_grad()
def _evaluate_one(
    engine: Any, forward: Forward, held_out: EvalSet, batch_size: int, control: ControlGroup
) -> tuple[float, float]:
    loss = torch.zeros((), dtype=torch.float64, device=forward.device)
    tokens = 0
    for rows in held_out.micro_batches(batch_size):
        loss += forward(engine, rows)
        tokens += kept_tokens(rows)
    total_loss, total_tokens = control.sum([loss.item(), float(tokens)])
    return total_loss, total_tokens
