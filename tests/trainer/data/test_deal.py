from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.deal import deal


def of_all_ranks(lengths: list[int], world_size: int, size: int) -> list[list[list[int]]]:
    return [deal(lengths, rank, world_size, size) for rank in range(world_size)]


@given(lengths=st.lists(st.integers(1, 50), max_size=60), world_size=st.integers(1, 9), size=st.integers(1, 5))
def test_every_row_goes_to_one_rank_and_ranks_have_equally_many_micro_batches(
    lengths: list[int], world_size: int, size: int
) -> None:
    ranks = of_all_ranks(lengths, world_size, size)
    dealt = [number for rank in ranks for micro_batch in rank for number in micro_batch]
    assert sorted(dealt) == list(range(len(lengths)))
    assert {len(rank) for rank in ranks} == {-(-len(lengths) // (world_size * size))}
    sizes = [len(micro_batch) for rank in ranks for micro_batch in rank]
    assert all(count <= size for count in sizes)
    assert not sizes or max(sizes) - min(sizes) <= 1


def test_rows_of_like_lengths_share_a_micro_batch_and_a_micro_step() -> None:
    lengths = [1, 9, 2, 8, 3, 7, 4, 6]
    ranks = of_all_ranks(lengths, world_size=2, size=2)
    assert [[[lengths[number] for number in micro_batch] for micro_batch in rank] for rank in ranks] == [
        [[9, 8], [4, 3]],
        [[7, 6], [2, 1]],
    ]


def test_of_rows_of_one_length_the_first_comes_first() -> None:
    assert of_all_ranks([5, 5, 5, 5], world_size=2, size=1) == [[[0], [2]], [[1], [3]]]


def test_a_rank_without_a_row_gets_an_empty_micro_batch() -> None:
    assert of_all_ranks([3], world_size=3, size=4) == [[[0]], [[]], [[]]]
