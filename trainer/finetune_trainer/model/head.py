"""Logits only where a label is kept.

With prompts masked, most positions need no logits, and for a vocabulary of 128k they are the largest tensor of a step.
Instead of knowing each architecture, a hook on the output embedding (`lm_head`) hands it the hidden states of the kept
positions only; whatever the model does with logits afterwards (scaling, soft-capping) still applies to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn


def kept_positions(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Where logits are needed, and what they must predict.

    `labels`: int64 [B, L], not shifted, -100 where nothing is to be learnt. Position t predicts label t+1, so the last
    position of a row never counts. Returns `index` int64 [K] into the flattened [B*L] positions, and `targets` int64
    [K].
    """
    shifted = torch.full_like(labels, -100)
    shifted[:, :-1] = labels[:, 1:]
    flat = shifted.reshape(-1)
    index = (flat != -100).nonzero()[:, 0]
    return index, flat[index]


class Positions(Protocol):
    """Makes a model say something of chosen positions only: `KeptPositions`, or `score.ScorePositions`."""

    def select(self, index: Tensor) -> AbstractContextManager[None]:
        """While open, `model(...).logits` is [1, K, N]: rows `index` (int64 [K]) of the flattened [B*L, N]."""


class KeptPositions:
    """Makes a causal language model compute logits at chosen positions only.

    Attach it once, after adapters are applied and before or after `deepspeed.initialize`; outside of `select` the model
    behaves as ever. Works with a tied output embedding, LoRA on it, ZeRO-3 and gradient checkpointing, because all of
    them act inside or around the same module.
    """

    def __init__(self, model: nn.Module) -> None:
        """Raises ValueError when the model has no output embedding."""
        getter = getattr(model, "get_output_embeddings", None)
        head = getter() if callable(getter) else None
        if not isinstance(head, nn.Module):
            raise ValueError(
                f"{type(model).__name__} has no output embedding; only causal language models can be trained"
            )
        self._index: Tensor | None = None
        self._hook = head.register_forward_pre_hook(self._select, prepend=True)

    @contextmanager
    def select(self, index: Tensor) -> Iterator[None]:
        """While open, `model(...).logits` is [1, K, V]: the rows `index` (int64 [K]) of the flattened [B*L, V].

        K may be 0; the backward pass then reaches every parameter with zero gradients.
        """
        self._index = index
        try:
            yield
        finally:
            self._index = None

    def detach(self) -> None:
        """Remove the hook."""
        self._hook.remove()

    def _select(self, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._index is None:
            return None
        hidden, *others = inputs
        kept = hidden.reshape(-1, hidden.shape[-1]).index_select(0, self._index)
        return (kept.unsqueeze(0), *others)
