"""What a model with a score head says of each document, read at its last token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from finetune_trainer.data import Row, count_documents
from finetune_trainer.engine.batch import Forward, Inputs


def document_scores(forward: Forward, engine: Any, rows: Sequence[Row]) -> Tensor:
    """The scores of every document in `rows`, in order, float32 [D, N] with gradient.

    No document, but connected to every parameter, for an empty list of rows. `forward.head` is a `ScorePositions`.
    """
    inputs = forward.inputs(rows)
    ends = document_ends(inputs, forward.pad_id, count=count_documents(rows))
    with forward.head.select(ends):
        output = engine(
            input_ids=inputs.input_ids, position_ids=inputs.position_ids, attention_mask=None, use_cache=False
        )
    scores: Tensor = output.logits[0].float()
    return scores


def document_ends(inputs: Inputs, pad_id: int, count: int) -> Tensor:
    """Where the score of each of `count` documents is read, int64 [count] into the flattened [B*L] positions.

    It is the last token that is no padding, or the first one of a document that has no other: as transformers finds it
    in a row of one document, also where padding is what ends texts.
    """
    owners = inputs.documents.reshape(-1)
    places = torch.arange(len(owners), device=owners.device)
    first = places.new_full((count + 1,), len(owners)).scatter_reduce(0, owners.clamp(max=count), places, "amin")
    told = torch.where(inputs.input_ids.reshape(-1) != pad_id, places, -1)
    last = places.new_full((count + 1,), -1).scatter_reduce(0, owners.clamp(max=count), told, "amax")
    return torch.where(last < 0, first, last)[:count]
