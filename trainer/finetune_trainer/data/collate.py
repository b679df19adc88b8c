"""Rows to rectangular arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.rows import IGNORED, Row


class Batch(TypedDict):
    """`input_ids`, `labels`, `position_ids`: int64[B, L]; `padded`: whether any row is shorter than L."""

    input_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    position_ids: NDArray[np.int64]
    padded: bool


def collate(rows: Sequence[Row], pad_id: int, pad_to_multiple: int = 1) -> Batch:
    """Pad `rows` on the right with `pad_id` to the longest one, rounded up to a multiple of `pad_to_multiple` tokens.

    Padding has the label -100 and positions that start at 0 again: a document of its own, which no other one sees.
    Labels are not shifted. Raises ValueError for no rows.
    """
    if not rows:
        raise ValueError("no rows to collate: a micro-batch of weight zero is for the caller to fill")
    longest = max(len(row) for row in rows)
    width = -(-longest // pad_to_multiple) * pad_to_multiple
    batch = Batch(
        input_ids=np.full((len(rows), width), pad_id, dtype=np.int64),
        labels=np.full((len(rows), width), IGNORED, dtype=np.int64),
        position_ids=np.empty((len(rows), width), dtype=np.int64),
        padded=any(len(row) < width for row in rows),
    )
    for i, row in enumerate(rows):
        batch["input_ids"][i, : len(row)] = row.input_ids
        batch["labels"][i, : len(row)] = row.labels
        batch["position_ids"][i, : len(row)] = row.position_ids
        batch["position_ids"][i, len(row) :] = np.arange(width - len(row))
    return batch
