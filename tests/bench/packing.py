"""One set of document lengths, packed as the stream does and by TRL's `bfd`: how full the rows are."""

from __future__ import annotations

import numpy as np

from finetune_trainer.data.order import BLOCK_RECORDS
from finetune_trainer.data.pack import best_fit


def log_normal_lengths(documents: int, capacity: int) -> list[int]:
    """So many lengths in tokens of about 400 on average, none above `capacity`, so that nothing has to be cut."""
    drawn = np.random.default_rng(0).lognormal(5.5, 1.0, 2 * documents).astype(int)
    return [int(length) for length in drawn[(drawn > 0) & (drawn <= capacity)][:documents]]


def our_fill(lengths: list[int], capacity: int) -> float:
    """Share of all rows' tokens that is no padding, packed block by block."""
    blocks = [lengths[start : start + BLOCK_RECORDS] for start in range(0, len(lengths), BLOCK_RECORDS)]
    rows = sum(len(best_fit(block, capacity)) for block in blocks)
    return sum(lengths) / (rows * capacity)


def trl_fill(lengths: list[int], capacity: int) -> float:
    """The same by TRL as its SFTTrainer calls it, 1,000 documents at a time; AssertionError if it cuts one."""
    from datasets import Dataset
    from trl.data_utils import pack_dataset

    documents = Dataset.from_dict({"input_ids": [[0] * length for length in lengths]})
    packed = pack_dataset(documents, capacity, "bfd")
    rows = packed["seq_lengths"]
    assert sorted(length for row in rows for length in row) == sorted(lengths)
    return sum(lengths) / (len(rows) * capacity)
