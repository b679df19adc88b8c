from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from eager_order import eager_order
from finetune_trainer.data import order as order_module
from finetune_trainer.data.chunks import ChunkTable
from finetune_trainer.data.copies import LANES
from finetune_trainer.data.order import (
    BLOCK_BYTES,
    BLOCK_RECORDS,
    Block,
    EpochOrder,
    Order,
    SequentialOrder,
    epoch_records,
)


def table(*sources: tuple[float, list[list[int]]], size: int = 100) -> ChunkTable:
    """Sources given as weight and segments, segments as the record counts of their chunks."""
    chunks = [
        (s, (s, g), records)
        for s, (_, segments) in enumerate(sources)
        for g, segment in enumerate(segments)
        for records in segment
    ]
    numbers = {key: i for i, key in enumerate(dict.fromkeys(key for _, key, _ in chunks))}
    return ChunkTable(
        source=np.array([s for s, _, _ in chunks]),
        segment=np.array([numbers[key] for _, key, _ in chunks]),
        records=np.array([records for _, _, records in chunks]),
        size=np.full(len(chunks), size),
        weights=tuple(weight for weight, _ in sources),
    )


def all_parts(order: Order) -> list[tuple[int, int, int]]:
    """Chunk, number of the copy and records taken of every part, in the order they are read."""
    return [(part.chunk, part.copy, part.records) for block in order.blocks() for part in block.parts]


def chunks_and_copies(order: Order) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Chunk and number of the copy of every part, in the order they are read: int64[parts] each."""
    chunk, copy, _ = np.array(all_parts(order)).T
    return chunk, copy


def records_in_order(order: Order) -> list[tuple[int, int]]:
    """Chunk and position of every record, in the order they are trained on."""
    found = []
    for block in order.blocks():
        read = [(part.chunk, n) for part in block.parts for n in order.selection(part).tolist()]
        found += [read[i] for i in order.shuffle(block)]
    return found


segments = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=4), min_size=1, max_size=12)


weights = st.sampled_from([0.01, 0.25, 1 / 3, 1.0, 1.5, 2.0, 3.2])
sources = st.lists(st.tuples(weights, segments), min_size=1, max_size=3)
limits = st.tuples(st.sampled_from([8, 64, 200]), st.sampled_from([300, 3000, BLOCK_BYTES]))


@given(sources=sources, seed=st.integers(0, 100), epoch=st.integers(0, 5), limits=limits)
def test_what_is_computed_where_it_is_asked_for_is_the_order_computed_at_once(
    sources: list[tuple[float, list[list[int]]]], seed: int, epoch: int, limits: tuple[int, int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order_module, "BLOCK_RECORDS", limits[0])
        patch.setattr(order_module, "BLOCK_BYTES", limits[1])
        chunks = table(*sources)
        expected = eager_order(chunks, seed, epoch)
        order = EpochOrder(chunks, seed, epoch)
        blocks = list(order.blocks())
        assert all_parts(order) == expected.parts
        assert [len(block.parts) for block in blocks] == np.diff(expected.bounds).tolist()
        assert [block.start.records for block in blocks] == np.cumsum([0] + [b.records for b in blocks])[:-1].tolist()
        check_last(order, blocks)
        for block in blocks:
            assert list(order.blocks(block.number, block.start)) == blocks[block.number :]
            assert list(order.blocks(block.number)) == blocks[block.number :]


def check_last(order: EpochOrder, blocks: list[Block]) -> None:
    """Exactly the last part of each copy of a segment says that it is."""
    parts = [part for block in blocks for part in block.parts]
    final = {(int(order.table.segment[part.chunk]), part.copy): part for part in parts}
    assert [part for part in parts if part.last] == [part for part in parts if part in final.values()]


@given(sources=sources, seed=st.integers(0, 100))
def test_a_copy_is_used_next_where_the_following_one_stands(
    sources: list[tuple[float, list[list[int]]]], seed: int
) -> None:
    order = EpochOrder(table(*sources), seed, 0)
    parts = [part for block in order.blocks() for part in block.parts]
    for number, part in enumerate(parts):
        alone = order.table.bound.find(part.chunk) is None
        follows = any(other.chunk == part.chunk for other in parts[number + 1 :])
        assert 0 <= order.next_use(part) <= 1
        if alone:
            assert (order.next_use(part) < 1) == follows


@given(first=segments, second=segments, seed=st.integers(0, 100), epoch=st.integers(0, 5))
def test_with_weight_1_an_epoch_holds_every_record_once(
    first: list[list[int]], second: list[list[int]], seed: int, epoch: int
) -> None:
    chunks = table((1.0, first), (1.0, second))
    order = EpochOrder(chunks, seed, epoch)
    expected = [(chunk, n) for chunk, held in enumerate(chunks.records) for n in range(held)]
    assert sorted(records_in_order(order)) == expected
    assert order.records == epoch_records(chunks, epoch) == len(expected)


@given(
    given_segments=segments,
    weight=st.sampled_from([0.25, 0.5, 1.5, 2.0, 3.2, 1 / 3, 0.1]),
    seed=st.integers(0, 100),
)
def test_a_weight_is_how_often_each_record_is_seen_per_epoch(
    given_segments: list[list[int]], weight: float, seed: int
) -> None:
    chunks = table((weight, given_segments))
    held = int(chunks.records.sum())
    period = {0.25: 4, 0.5: 2, 1.5: 2, 2.0: 1, 3.2: 5, 1 / 3: 3, 0.1: 10}[weight]
    seen: Counter[tuple[int, int]] = Counter()
    for epoch in range(period):
        records = records_in_order(EpochOrder(chunks, seed, epoch))
        assert abs(len(records) - weight * held) < 1 + 1e-6
        assert len(records) == epoch_records(chunks, epoch)
        once = Counter(records)
        assert set(once.values()) <= {int(weight), int(weight) + 1}
        seen += once
    assert len(seen) == held
    assert set(seen.values()) == {round(weight * period)}


def test_a_half_is_not_the_same_half_of_every_chunk() -> None:
    order = EpochOrder(table((0.5, [[64]] * 8)), 3, 0)
    halves = {part.chunk: tuple(order.selection(part)) for block in order.blocks() for part in block.parts}
    assert len(set(halves.values())) == 8


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    chunks = table((1.0, [[50]] * 200))
    orders = {(seed, epoch): records_in_order(EpochOrder(chunks, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}
    for (one, records), (other, others) in product(orders.items(), orders.items()):
        same = sum(a == b for a, b in zip(records, others, strict=True))
        assert same == 10_000 if one == other else same < 20
    assert orders[0, 0] == records_in_order(EpochOrder(chunks, 0, 0))


def test_two_copies_of_a_chunk_are_placed_independently() -> None:
    order = EpochOrder(table((2.0, [[10]] * 2000)), 0, 0)
    chunk, copies = chunks_and_copies(order)
    one, other = (np.argsort(chunk[copies == copy]) for copy in range(2))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.1


def test_chunks_of_a_segment_are_read_front_to_back() -> None:
    order = EpochOrder(table((2.0, [[10] * 7, [10] * 30, [10], [10] * 3])), 1, 0)
    chunk, copies = chunks_and_copies(order)
    for segment in range(4):
        for copy in range(2):
            mine = (order.table.segment[chunk] == segment) & (copies == copy)
            assert np.all(np.diff(chunk[mine]) == 1)


def test_files_that_are_read_whole_are_interleaved_a_few_at_a_time() -> None:
    order = EpochOrder(table((1.0, [[10] * 50 for _ in range(40)])), 0, 0)
    segments_read = order.table.segment[chunks_and_copies(order)[0]]
    for start in range(0, len(segments_read), 50 * LANES):
        group = segments_read[start : start + 50 * LANES]
        assert len(set(group)) == LANES
        assert all(len(set(group[i : i + LANES])) == LANES for i in range(0, len(group), LANES))


def test_chunks_that_stand_alone_are_spread_between_those_that_do_not() -> None:
    chunks = table((1.0, [[10] * 200 for _ in range(5)]), (1.0, [[10]] * 1000))
    alone = chunks.source[chunks_and_copies(EpochOrder(chunks, 0, 0))[0]] == 1
    shares = alone.reshape(20, 100).mean(axis=1)
    assert shares.min() > 0.4
    assert shares.max() < 0.6


def test_blocks_are_bounded_in_records_and_bytes() -> None:
    by_records = EpochOrder(table((1.0, [[250]] * 100)), 0, 0)
    sizes = np.array([block.records for block in by_records.blocks()])
    assert sizes.max() <= BLOCK_RECORDS < sizes.max() + 250
    by_bytes = EpochOrder(table((1.0, [[250]] * 100), size=BLOCK_BYTES // 4), 0, 0)
    assert all(len(block.parts) == 4 for block in by_bytes.blocks())


def test_a_chunk_above_the_limits_is_a_block_of_its_own() -> None:
    order = EpochOrder(table((1.0, [[3], [3]]), size=2 * BLOCK_BYTES), 0, 0)
    assert len(list(order.blocks())) == 2


def test_records_of_a_block_come_from_many_places_of_an_ordered_file() -> None:
    chunks = table((1.0, [[256]] * 400))
    places = np.array([chunk for chunk, _ in records_in_order(EpochOrder(chunks, 0, 0))[:BLOCK_RECORDS]])
    assert len(set(places.tolist())) == 16
    assert places.max() - places.min() > 200
    assert len(set(places[:100].tolist())) >= 12


def test_held_out_data_is_read_in_order() -> None:
    order = SequentialOrder(table((1.0, [[3], [2, 4]])))
    assert [chunk for chunk, _, _ in all_parts(order)] == [0, 1, 2]
    assert order.records == 9


def test_the_order_is_that_of_version_1() -> None:
    """A change here changes the order of every run: raise STATE_VERSION with it."""
    chunks = table((1.5, [[4], [3], [5]]), (1.0, [[2, 2], [3]]))
    found = [f"{chunk}.{n}" for chunk, n in records_in_order(EpochOrder(chunks, 42, 1))]
    assert (
        " ".join(found)
        == "2.4 1.1 4.1 2.0 5.2 0.1 5.0 1.0 4.0 0.2 1.0 0.0 2.1 0.1 5.1 3.0 3.1 1.2 2.2 2.4 0.0 0.3 2.3 2.2 2.0"
    )


@pytest.mark.parametrize("weight", [1e-6, 1000.0])
def test_extreme_weights_are_counted_exactly(weight: float) -> None:
    chunks = table((weight, [[1000]] * 3))
    assert abs(EpochOrder(chunks, 0, 0).records - 3000 * weight) <= 1
