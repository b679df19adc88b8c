"""Adapters that begin as a part of the weights (PiSSA, OLoRA): what they begin as, and the weights without it.

The base weights of such a run are no model's. So the first values are kept with the run, bit for bit: later starts take
them out of the same weights again, on any hardware, and an export takes them out of what was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from finetune_trainer.model.coverage import adapted_layers
from finetune_trainer.model.lora import seeded
from finetune_trainer.spec.method import Initialization

EXACT_BELOW = 1024
"""Matrices with a side of no more than this are decomposed exactly: in less than a second."""
ITERATIONS = 16
"""Of the randomised decomposition of larger ones: enough for the error of the exact one (PiSSA, section 4)."""

Factors = dict[str, Tensor]
"""`<name of the module in the base model>.A` [rank, in] and `.B` [out, rank] for each adapter, in its dtype."""


Progress = Callable[[int, int], None]
"""Told how many of all weights are done."""


def _silent(done: int, total: int) -> None:
    """Nobody asked."""


@torch.no_grad()
def decompose(
    model: nn.Module, initialization: Initialization, seed: int, device: torch.device, progress: Progress = _silent
) -> Factors:
    """The first values of every adapter of a PeftModel, on the CPU; `device` is where they are computed.

    As in peft: the largest singular values, or the first columns of Q and rows of R, over the adapters' scale.
    """
    find = {Initialization.PISSA: _principal, Initialization.OLORA: _orthonormal}[initialization]
    factors: Factors = {}
    layers = adapted_layers(model)
    for number, (name, layer) in enumerate(layers.items()):
        progress(number, len(layers))
        weight = _weight(layer)
        rank, scale = layer.r["default"], layer.scaling["default"]
        down, up = find(weight.to(device, torch.float32), min(rank, *weight.shape), scale, seeded(seed, name))
        factors[f"{name}.A"] = _padded(down, 0, rank).to("cpu", weight.dtype).contiguous()
        factors[f"{name}.B"] = _padded(up, 1, rank).to("cpu", weight.dtype).contiguous()
    return factors


@torch.no_grad()
def take_out(model: nn.Module, factors: Mapping[str, Tensor], progress: Progress = _silent) -> None:
    """Give the adapters of a PeftModel these values, and take them out of the weights beside, so that logits stay.

    What is taken out is what the adapters hold, after rounding. Computed in float64, so that the weights' last bit does
    not hang on the order of a sum. ValueError when the factors are not those of the adapters.
    """
    layers = adapted_layers(model)
    if factors.keys() != {f"{name}.{part}" for name in layers for part in "AB"}:
        raise ValueError("the initial values are of other adapters")
    for number, (name, layer) in enumerate(layers.items()):
        progress(number, len(layers))
        down, up = factors[f"{name}.A"], factors[f"{name}.B"]
        layer.lora_A["default"].weight.copy_(down)
        layer.lora_B["default"].weight.copy_(up)
        part = layer.scaling["default"] * (up.double() @ down.double())
        base = layer.get_base_layer().weight
        base.copy_((base.double().cpu() - (part.T if layer.fan_in_fan_out else part)).to(base.dtype))
        layer.taken_out = (down, up)


def taken_out(layer: Any) -> tuple[Tensor, Tensor] | None:
    """A and B as `take_out` gave them to an adapter's layer; None where nothing was taken out of its weight."""
    found: tuple[Tensor, Tensor] | None = getattr(layer, "taken_out", None)
    return found


def _weight(layer: Any) -> Tensor:
    weight: Tensor = layer.get_base_layer().weight
    return weight.T if layer.fan_in_fan_out else weight


def _principal(weight: Tensor, rank: int, scale: float, seed: int) -> tuple[Tensor, Tensor]:
    if min(weight.shape) <= EXACT_BELOW:
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        right = right.T
    else:
        with torch.random.fork_rng([weight.device] if weight.is_cuda else []):
            torch.manual_seed(seed)
            left, values, right = torch.svd_lowrank(weight, rank, niter=ITERATIONS)
    root = (values[:rank] / scale).sqrt()
    return root[:, None] * right[:, :rank].T, left[:, :rank] * root


def _orthonormal(weight: Tensor, rank: int, scale: float, seed: int) -> tuple[Tensor, Tensor]:
    left, right = torch.linalg.qr(weight)
    return right[:rank], left[:, :rank]


def _padded(factor: Tensor, dimension: int, rank: int) -> Tensor:
    """A matrix has no more singular values than rows or columns; what a higher rank has beyond is zero."""
    missing = rank - factor.shape[dimension]
    shape = [missing if axis == dimension else length for axis, length in enumerate(factor.shape)]
    return torch.cat([factor, factor.new_zeros(shape)], dimension) if missing > 0 else factor
