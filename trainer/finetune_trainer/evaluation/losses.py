"""The loss of each record for itself, of the model in the engine, over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from finetune_trainer.data import IGNORED, Row
from finetune_trainer.data.encode import Document
from finetune_trainer.engine.batch import Forward
from finetune_trainer.engine.collectives import ControlGroup
from finetune_trainer.evaluation.batches import Batch, batches_of, on_all_ranks


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
        kept = self.forward.kept(self.engine, [_row(documents[place]) for place in batch])
        sums, counts = kept.sums().tolist(), kept.lengths().tolist()
        return [TokenLoss(total, int(count)) for total, count in zip(sums, counts, strict=True)]


def _row(document: Document) -> Row:
    """A document in a row of its own, which is no record's."""
    return Row(document.input_ids, document.labels != IGNORED, (len(document.input_ids),), ())


def shortened(document: Document, most: int) -> Document:
    """The first `most` tokens of a document, as training cuts it."""
    return Document(document.input_ids[:most], document.labels[:most])
