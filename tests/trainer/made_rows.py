"""Rows of arrays as a model takes them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data import IGNORED, Row

Integers = NDArray[np.integer[Any]]


def row_of(
    input_ids: Integers,
    labels: Integers,
    position_ids: Integers,
    records: tuple[str, ...],
    targets: NDArray[np.float32] | None = None,
) -> Row:
    """Of arrays [L]: labels are ids or -100, positions 0 where a document begins."""
    bounds = [*np.flatnonzero(position_ids == 0).tolist(), len(input_ids)]
    lengths = tuple(end - start for start, end in pairwise(bounds))
    return Row(input_ids, labels != IGNORED, lengths, records, targets=targets)
