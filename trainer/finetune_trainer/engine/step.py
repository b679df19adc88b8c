"""One optimizer step: forward and backward over the micro-batches of a global batch, then the update.

The loss of a step is the sum of its losses (of tokens, pairs or records) over their weight, over all micro-batches and
ranks: no mean of means. DeepSpeed averages gradients over ranks, so each micro-batch's sum is multiplied by the world
size, divided by that weight, and not divided by the accumulation steps (`scale_wrt_gas=False`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from finetune_trainer.data import Row
from finetune_trainer.engine.collectives import ControlGroup
from finetune_trainer.engine.loss import Objective
from finetune_trainer.engine.optimizer import set_learning_rate


@dataclass(frozen=True)
class StepResult:
    """What one step did, the same on every rank.

    `loss` is the objective's over the global batch (SFT: nats per kept token); `grad_norm` is the L2 norm before
    clipping (infinite when it is not finite); `applied` is False when the loss or the gradient was not finite, and a
    gradient that was not finite has changed nothing; `votes` says for each of the hooks' votes whether any rank cast
    it; `metrics` are the objective's.
    """

    loss: float
    grad_norm: float
    applied: bool
    votes: tuple[bool, ...]
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Hooks:
    """What else happens in a step. `before_update` is called before weights or optimizer state change.

    `votes` are asked for after the update: this rank's wishes (to stop, to commit) that all ranks shall learn of, which
    travel with the loss.
    """

    before_update: Callable[[], None] = lambda: None
    votes: Callable[[], Sequence[bool]] = tuple


NO_HOOKS = Hooks()


def train_step(
    engine: Any,
    objective: Objective,
    micro_batches: Sequence[Sequence[Row]],
    *,
    global_batch: Sequence[Row],
    learning_rate: float,
    max_grad_norm: float,
    control: ControlGroup,
    hooks: Hooks = NO_HOOKS,
) -> StepResult:
    """Train on this rank's `micro_batches` of `global_batch`, the rows of all ranks.

    Every rank passes the same number of micro-batches; an empty one is run with zero weight so that collectives match.
    """
    set_learning_rate(engine.optimizer, learning_rate)
    weight = objective.weight(global_batch)
    whole = objective.prepare(engine, global_batch, control)
    scale = control.world_size / weight
    sums: list[torch.Tensor] = []
    for number, rows in enumerate(micro_batches, start=1):
        engine.set_gradient_accumulation_boundary(number == len(micro_batches))
        loss = objective.loss(engine, rows, whole)
        engine.backward(loss.total.float() * scale, scale_wrt_gas=False)
        sums.append(torch.cat([loss.total.detach().double().view(1), loss.sums.view(-1)]))
    hooks.before_update()
    grad_norm, applied = _update(engine, max_grad_norm)
    mine: list[float] = torch.stack(sums).sum(dim=0).tolist()
    both = control.sum([*mine, *map(float, hooks.votes())])
    (total, *measured), cast = both[: len(mine)], both[len(mine) :]
    applied = applied and math.isfinite(total)
    votes = tuple(count > 0 for count in cast)
    return StepResult(total / weight, grad_norm, applied, votes, objective.measured(measured))


def _update(engine: Any, max_grad_norm: float) -> tuple[float, bool]:
    if engine.zero_optimization() or engine.bfloat16_enabled():
        engine.step()
        norm = float(engine.get_global_grad_norm() or 0.0)
        return norm, engine.was_step_applied() and math.isfinite(norm)
    return _clip_and_update(engine, max_grad_norm)


def _clip_and_update(engine: Any, max_grad_norm: float) -> tuple[float, bool]:
    """Stage 0 in float32: every rank has whole, equal gradients, and DeepSpeed looks at neither norm nor overflow."""
    parameters = [parameter for parameter in engine.module.parameters() if parameter.requires_grad]
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm or math.inf))
    if not math.isfinite(norm):
        engine.zero_grad()
        return math.inf, False
    engine.step()
    return norm, True
