"""Rows to tensors to what a loss is made of: the only place where the model is called for training and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from finetune_trainer.data import Row, collate, documents_of
from finetune_trainer.model.cross_entropy import kept_loss_sum, kept_losses
from finetune_trainer.model.head import Positions, kept_positions

_EMPTY = Row(
    tokens=np.zeros(2, dtype=np.int32),
    trained=np.zeros(2, dtype=np.bool_),
    lengths=(2,),
    records=(),
)


class Inputs(NamedTuple):
    """Rows as rectangular tensors, int64 [B, L] each; B lines are B rows, or their documents (`Forward.alone`).

    `documents`: number of the document that a position belongs to, counted over all rows; padding has that of the
    document before it.
    """

    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor
    documents: Tensor


@dataclass(frozen=True)
class Kept:
    """What the model says of K kept tokens: `losses` float32 [K] with gradient, nats; `documents` int64 [K]: number of
    each one's document, ascending, of all `count` documents in the rows.
    """

    losses: Tensor
    documents: Tensor
    count: int

    def sums(self) -> Tensor:
        """Each document's loss, float64 [count] with gradient: minus the log-probability of all its kept tokens.

        Objectives compare such sums, and differences of long answers would be lost in float32.
        """
        zeros = self.losses.new_zeros(self.count, dtype=torch.float64)
        return zeros.index_add(0, self.documents, self.losses.double())

    def lengths(self) -> Tensor:
        """Each document's number of kept tokens, float64 [count]."""
        return torch.bincount(self.documents, minlength=self.count)[: self.count].double()


@dataclass(frozen=True)
class Forward:
    """Runs rows through an engine.

    No attention mask is passed: lines are padded on the right, and the model isolates packed documents by positions
    that restart (proved at start-up, `model.isolation`); with `alone` each document of a row has a line of its own.
    `reuse_logits` lets the gradient overwrite the logits; it must be False for a model that post-processes them in a
    way that needs them again (soft-capping).
    """

    head: Positions
    device: torch.device
    pad_id: int
    reuse_logits: bool = False
    alone: bool = False

    def __call__(self, engine: Any, rows: Sequence[Row]) -> Tensor:
        """The float32 sum of the rows' kept tokens' cross-entropies (nats), with gradient.

        Zero, but connected to every parameter, for an empty list of rows.
        """
        logits, targets, _ = self._logits(engine, rows)
        return kept_loss_sum(logits, targets, reuse_memory=self.reuse_logits)

    def kept(self, engine: Any, rows: Sequence[Row]) -> Kept:
        """The cross-entropy of each kept token; none, but connected to every parameter, for an empty list of rows."""
        logits, targets, documents = self._logits(engine, rows)
        count = sum(len(row.lengths) for row in rows)
        return Kept(kept_losses(logits, targets, reuse_memory=self.reuse_logits), documents, count)

    def inputs(self, rows: Sequence[Row]) -> Inputs:
        """The tensors of rows on the device; of one line without label and document for an empty list of rows."""
        lines = [line for row in rows for line in (documents_of(row) if self.alone else (row,))] or [_EMPTY]
        batch = collate(lines, self.pad_id)
        documents = np.empty_like(batch["input_ids"])
        before = 0
        for number, line in enumerate(lines):
            behind = before + len(line.lengths)
            documents[number, : len(line)] = np.repeat(np.arange(before, behind), line.lengths)
            documents[number, len(line) :] = behind - 1
            before = behind
        positions = _positions(lines, batch["position_ids"])
        arrays = (batch["input_ids"], batch["labels"], positions, documents)
        return Inputs(*(torch.from_numpy(array).to(self.device, non_blocking=True) for array in arrays))

    def _logits(self, engine: Any, rows: Sequence[Row]) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [1, K, V] at the K kept positions, and what each must predict and its document, int64 [K]."""
        inputs = self.inputs(rows)
        index, targets = kept_positions(inputs.labels)
        with self.head.select(index):
            output = engine(
                input_ids=inputs.input_ids, position_ids=inputs.position_ids, attention_mask=None, use_cache=False
            )
        return output.logits, targets, inputs.documents.reshape(-1)[index]


def _positions(rows: Sequence[Row], positions: Any) -> Any:
    """Without packed rows, positions that run on into the padding let attention stay plainly causal, without a mask."""
    if any(len(row.lengths) > 1 for row in rows):
        return positions
    return np.broadcast_to(np.arange(positions.shape[1]), positions.shape).copy()


def kept_tokens(rows: Sequence[Row]) -> int:
    """Number of trained tokens in `rows`."""
    return sum(row.kept_tokens for row in rows)
