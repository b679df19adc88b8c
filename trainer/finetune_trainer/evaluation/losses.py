"""The loss of each record for itself, of the model in the engine, over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from finetune_trainer.data.encode import Document
from finetune_trainer.engine.batch import Forward
from finetune_trainer.engine.collectives import ControlGroup
from finetune_trainer.evaluation.batches import Batch, batches_of, on_all_ranks
from finetune_trainer.model.head import kept_positions


@dataclass(frozen=True)
class TokenLoss:
    """Sum of a document's token losses, in nats, and how many tokens these are."""

    total: float
    tokens: int

    @property
    def mean(self) -> float:
        """Nats per token; nan for no tokens."""
        return self.total / self.tokens if self.tokens else float("nan")


@dataclass(frozen=True)
class Losses:
    """Computes the losses of documents, each in a row of its own."""

    engine: Any
    forward: Forward
    control: ControlGroup
    most_tokens: int  # tokens of a batch with padding: what a micro-batch of training has

    def of(self, documents: Sequence[Document], between_batches: Callable[[], None]) -> list[TokenLoss]:
        """The loss of each document; collective. Leaves the engine in evaluation mode.

        `between_batches` is called equally often on every rank, and ends it by raising.
        """
        self.engine.eval()
        batches = batches_of([len(document.input_ids) for document in documents], self.most_tokens)
        found = on_all_ranks(batches, lambda batch: self._batch(documents, batch), self.control, between_batches)
        return [found[place] for place in range(len(documents))]

    @torch.no_grad()
    def _batch(self, documents: Sequence[Document], batch: Batch) -> list[TokenLoss]:
        """Padded on the right, so that causal attention needs no mask."""
        width = max(2, *(len(documents[place].input_ids) for place in batch))
        ids = np.full((len(batch), width), self.forward.pad_id, dtype=np.int64)
        labels = np.full((len(batch), width), -100, dtype=np.int64)
        for row, place in enumerate(batch):
            length = len(documents[place].input_ids)
            ids[row, :length], labels[row, :length] = documents[place].input_ids, documents[place].labels
        index, targets = kept_positions(torch.from_numpy(labels).to(self.forward.device))
        with self.forward.head.select(index):
            logits = self.engine(
                input_ids=torch.from_numpy(ids).to(self.forward.device), attention_mask=None, use_cache=False
            ).logits
        each = torch.nn.functional.cross_entropy(logits[0].float(), targets, reduction="none").double()
        rows = index // width
        sums = torch.zeros(len(batch), dtype=torch.float64, device=each.device).index_add_(0, rows, each)
        counts = torch.bincount(rows, minlength=len(batch))
        return [TokenLoss(float(total), int(count)) for total, count in zip(sums, counts, strict=True)]


def shortened(document: Document, most: int) -> Document:
    """The first `most` tokens of a document, as training cuts it."""
    return Document(document.input_ids[:most], document.labels[:most])
