"""Cross-entropy over a big vocabulary, without float32 copies of all logits.

For K rows of V logits, `F.cross_entropy(logits.float(), ...)` holds three float32 tensors of K x V at its peak. Here
the gradient is computed during the forward pass, a few rows at a time, and is the only thing of that size that is
kept, in the logits' own dtype. (The idea is that of Liger-Kernel's fused cross-entropy, arXiv 2410.10989, section 3.2.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = {"cpu": 4 * 2**20, "cuda": 32 * 2**20}
"""Elements of the float32 work space, by kind of device: 16 MiB is best for CPU caches. On an H200, [8192, 128256] in
bfloat16 took 27.1 ms forward and backward with 16 MiB (launches of kernels), 15.6 with 128, 14.9 with 512."""


def kept_loss_sum(logits: Tensor, targets: Tensor, *, reuse_memory: bool = False) -> Tensor:
    """Sum over K tokens of `-log softmax(logits)[target]`.

    `logits`: float [K, V] or [1, K, V], any float dtype. `targets`: int64 [K], all within [0, V): masked positions are
    left out beforehand (see `head.KeptPositions`). K may be 0: the sum is 0 and still differentiable, so that a rank
    without tokens takes part in every collective of the backward pass. Returns a float32 scalar in nats, equal to
    `F.cross_entropy(logits.float(), targets, reduction="sum")` to 1e-6 relative; the gradient has the logits' dtype.

    `reuse_memory` writes the gradient over the logits. Allowed when nothing reads the logits afterwards; a model that
    post-processes them with a function that saves its result (tanh soft-capping) makes the backward pass raise then.
    """
    if targets.dtype != torch.int64 or targets.ndim != 1 or logits.shape[:-1].numel() != len(targets):
        raise ValueError(f"targets must be int64 [K] for logits [K, V], not {targets.dtype} {tuple(targets.shape)}")
    rows = logits.reshape(-1, logits.shape[-1])
    if not (torch.is_grad_enabled() and logits.requires_grad):
        return token_losses(rows, targets).sum(dtype=torch.float64).to(torch.float32)
    total: Tensor = _SumOfCrossEntropies.apply(rows, targets, reuse_memory)
    return total


def kept_losses(logits: Tensor, targets: Tensor, *, reuse_memory: bool = False) -> Tensor:
    """The K losses themselves, float32 [K], with a gradient; arguments, memory and K of 0 as in `kept_loss_sum`."""
    rows = logits.reshape(-1, logits.shape[-1])
    if not (torch.is_grad_enabled() and logits.requires_grad):
        return token_losses(rows, targets)
    losses: Tensor = _CrossEntropies.apply(rows, targets, reuse_memory)
    return losses


@torch.no_grad()
def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """The K losses themselves, float32 [K], for evaluation; arguments as in `kept_loss_sum`, without a gradient."""
    rows = logits.reshape(-1, logits.shape[-1])
    losses = torch.empty(len(targets), dtype=torch.float32, device=rows.device)
    for part in _chunks(rows):
        log_probabilities = _log_softmax(rows[part])
        losses[part] = -log_probabilities.gather(1, targets[part, None])[:, 0]
    return losses


def _chunks(rows: Tensor) -> list[slice]:
    size = max(1, CHUNK_ELEMENTS.get(rows.device.type, CHUNK_ELEMENTS["cpu"]) // rows.shape[1])
    return [slice(start, start + size) for start in range(0, len(rows), size)]


def _log_softmax(rows: Tensor) -> Tensor:
    return torch.log_softmax(rows, dim=-1, dtype=torch.float32)


def _losses_and_gradient(rows: Tensor, targets: Tensor, reuse_memory: bool) -> tuple[Tensor, Tensor]:
    """The losses, float32 [K], and of each its gradient by its own row of logits, in the logits' dtype [K, V]."""
    gradient = rows.detach() if reuse_memory else torch.empty_like(rows)
    losses = torch.empty(len(targets), dtype=torch.float32, device=rows.device)
    for part in _chunks(rows):
        work = _log_softmax(rows[part])
        target = targets[part, None]
        losses[part] = -work.gather(1, target)[:, 0]
        work.exp_().scatter_add_(1, target, work.new_full(target.shape, -1.0))  # d loss / d logit = softmax - one-hot
        gradient[part] = work
    return losses, gradient


class _SumOfCrossEntropies(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, targets: Tensor, reuse_memory: bool) -> Tensor:
        losses, ctx.gradient = _losses_and_gradient(rows, targets, reuse_memory)
        return losses.sum(dtype=torch.float64).to(torch.float32)

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None, None]:
        return _taken(ctx).mul_(scale), None, None


class _CrossEntropies(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, targets: Tensor, reuse_memory: bool) -> Tensor:
        losses, ctx.gradient = _losses_and_gradient(rows, targets, reuse_memory)
        return losses

    @staticmethod
    def backward(ctx: Any, scales: Tensor) -> tuple[Tensor, None, None]:
        gradient = _taken(ctx)
        for part in _chunks(gradient):  # of two dtypes, a product of all rows would be made in float32 first
            gradient[part] *= scales[part, None]
        return gradient, None, None


def _taken(ctx: Any) -> Tensor:
    gradient, ctx.gradient = ctx.gradient, None
    if gradient is None:
        raise RuntimeError("a kept loss keeps its gradient for one backward pass only")
    kept: Tensor = gradient
    return kept
