from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.deal import deal
from finetune_trainer.data.rows import Row
from made_rows import row_of


def row(length: int, number: int = 0) -> Row:
    tokens = np.full(length, number, dtype=np.int32)
    return row_of(tokens, tokens, np.arange(length, dtype=np.int32), (f"f#{number}",))


@given(lengths=st.lists(st.integers(1, 50), max_size=60), world_size=st.integers(1, 9), size=st.integers(1, 5))
def test_every_row_goes_to_one_rank_and_ranks_have_equally_many_micro_batches(
    lengths: list[int], world_size: int, size: int
) -> None:
    ranks = deal([row(length, i) for i, length in enumerate(lengths)], world_size, size)
    dealt = [r.records[0] for rank in ranks for micro_batch in rank for r in micro_batch]
    assert sorted(dealt) == sorted(f"f#{i}" for i in range(len(lengths)))
    assert len(ranks) == world_size
    assert {len(rank) for rank in ranks} == {-(-len(lengths) // (world_size * size))}
    sizes = [len(micro_batch) for rank in ranks for micro_batch in rank]
    assert all(count <= size for count in sizes)
    assert not sizes or max(sizes) - min(sizes) <= 1


def test_rows_of_like_lengths_share_a_micro_batch_and_a_micro_step() -> None:
    ranks = deal([row(length) for length in (1, 9, 2, 8, 3, 7, 4, 6)], world_size=2, micro_batch_size=2)
    assert [[[len(r) for r in micro_batch] for micro_batch in rank] for rank in ranks] == [
        [[9, 8], [4, 3]],
        [[7, 6], [2, 1]],
    ]


def test_a_rank_without_a_row_gets_an_empty_micro_batch() -> None:
    ranks = deal([row(3)], world_size=3, micro_batch_size=4)
    assert [[len(micro_batch) for micro_batch in rank] for rank in ranks] == [[1], [0], [0]]
