from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.order import BLOCK_RECORDS
from finetune_trainer.data.pack import best_fit


@given(lengths=st.lists(st.integers(1, 64), max_size=300), capacity=st.integers(64, 200))
def test_every_document_lies_in_one_row_and_no_row_overflows(lengths: list[int], capacity: int) -> None:
    rows = best_fit(lengths, capacity)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[index] for index in row) <= capacity for row in rows)
    assert all(row == sorted(row) for row in rows)


@given(lengths=st.lists(st.integers(1, 64), min_size=1, max_size=300))
def test_no_two_rows_would_fit_into_one(lengths: list[int]) -> None:
    sums = sorted(sum(lengths[index] for index in row) for row in best_fit(lengths, 64))
    assert len(sums) == 1 or sums[0] + sums[1] > 64


def test_a_document_goes_where_the_least_room_is_left() -> None:
    assert best_fit([6, 7, 3, 4], 10) == [[1, 2], [0, 3]]


@pytest.mark.parametrize("capacity", [2048, 8192])
def test_rows_of_log_normal_lengths_are_filled_to_98_percent(capacity: int) -> None:
    drawn = np.random.default_rng(0).lognormal(5.5, 1.0, 4096)
    lengths = np.clip(drawn, 1, capacity).astype(int).tolist()
    rows = best_fit(lengths, capacity)
    assert sum(lengths) >= 0.98 * len(rows) * capacity


@pytest.mark.parametrize("mean", [5.5, 6.5, 7.0])
@pytest.mark.parametrize("capacity", [2048, 8192])
def test_rows_of_whole_log_normal_documents_are_filled_to_98_percent(capacity: int, mean: float) -> None:
    drawn = np.random.default_rng(1).lognormal(mean, 1.0, 3 * BLOCK_RECORDS).astype(int)
    lengths = drawn[(drawn > 0) & (drawn <= capacity)][:BLOCK_RECORDS].tolist()  # none is cut
    assert len(lengths) == BLOCK_RECORDS
    rows = best_fit(lengths, capacity)
    assert sorted(index for row in rows for index in row) == list(range(BLOCK_RECORDS))
    assert sum(lengths) >= 0.98 * len(rows) * capacity


@pytest.mark.parametrize("length", [0, 11])
def test_a_length_outside_the_row_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 10"):
        best_fit([5, length], 10)
