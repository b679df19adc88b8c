from __future__ import annotations

import numpy as np
import pytest

from finetune_trainer.data import Row, collate
from made_rows import row_of


def row(*tokens: int) -> Row:
    ids = np.array(tokens, dtype=np.int32)
    labels = np.where(np.arange(len(ids)) == 0, -100, ids).astype(np.int32)
    return row_of(ids, labels, np.arange(len(ids), dtype=np.int32), ("f#1",))


def test_short_rows_are_padded_on_the_right_as_a_document_of_their_own() -> None:
    batch = collate([row(5, 6, 7, 8), row(9, 4)], pad_id=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [9, 4, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7, 8], [-100, 4, -100, -100]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3], [0, 1, 0, 1]]
    assert batch["padded"]
    assert all(batch[name].dtype == np.int64 for name in ("input_ids", "labels", "position_ids"))


def test_rows_of_one_length_are_not_padded() -> None:
    assert not collate([row(1, 2), row(3, 4)], pad_id=0)["padded"]


def test_the_width_is_rounded_up_to_a_multiple() -> None:
    batch = collate([row(1, 2, 3)], pad_id=7, pad_to_multiple=8)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 7, 7, 7, 7, 7]]
    assert batch["padded"]


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="no rows"):
        collate([], pad_id=0)
