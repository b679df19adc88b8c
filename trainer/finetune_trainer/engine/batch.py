"""Rows to tensors to the sum of token losses: the only place where the model is called for training and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from finetune_trainer.data import Row, collate
from finetune_trainer.model.cross_entropy import kept_loss_sum
from finetune_trainer.model.head import KeptPositions, kept_positions

_EMPTY = Row(
    input_ids=np.zeros(2, dtype=np.int32),
    labels=np.full(2, -100, dtype=np.int32),
    position_ids=np.arange(2, dtype=np.int32),
    records=(),
)


@dataclass(frozen=True)
class Forward:
    """Runs rows through an engine and returns the float32 sum of their kept tokens' cross-entropies (nats).

    No attention mask is passed: rows are padded on the right, and the model isolates packed documents by positions that
    restart (proved at start-up, `model.isolation`). `reuse_logits` lets the gradient overwrite the logits; it must be
    False for a model that post-processes them in a way that needs them again (soft-capping).
    """

    head: KeptPositions
    device: torch.device
    pad_id: int
    reuse_logits: bool = False

    def __call__(self, engine: Any, rows: Sequence[Row]) -> torch.Tensor:
        """Scalar tensor with gradient; zero, but connected to every parameter, for an empty list of rows."""
        inputs = self._tensors(rows or [_EMPTY])
        index, targets = kept_positions(inputs.pop("labels"))
        with self.head.select(index):
            logits = engine(**inputs, attention_mask=None, use_cache=False).logits
        return kept_loss_sum(logits, targets, reuse_memory=self.reuse_logits)

    def _tensors(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        batch = collate(rows, self.pad_id)
        arrays = {
            "input_ids": batch["input_ids"],
            "labels": batch["labels"],
            "position_ids": _positions(rows, batch["position_ids"]),
        }
        return {name: torch.from_numpy(array).to(self.device, non_blocking=True) for name, array in arrays.items()}


def _positions(rows: Sequence[Row], positions: Any) -> Any:
    """Without packed rows, positions that run on into the padding let attention stay plainly causal, without a mask."""
    if any(np.count_nonzero(row.position_ids == 0) > 1 for row in rows):
        return positions
    return np.broadcast_to(np.arange(positions.shape[1]), positions.shape).copy()


def kept_tokens(rows: Sequence[Row]) -> int:
    """Number of trained tokens in `rows`."""
    return sum(row.kept_tokens for row in rows)
