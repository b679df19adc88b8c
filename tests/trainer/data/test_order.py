from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.order import (
    BLOCK_BYTES,
    BLOCK_RECORDS,
    LANES,
    ChunkTable,
    EpochOrder,
    epoch_records,
    order_epoch,
    sequential_order,
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


def records_in_order(order: EpochOrder) -> list[tuple[int, int]]:
    """Chunk and position of every record, in the order they are trained on."""
    found = []
    for block in range(order.blocks):
        read = [(part.chunk, n) for part in order.parts(block) for n in order.selection(part).tolist()]
        found += [read[i] for i in order.shuffle(block)]
    return found


segments = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=4), min_size=1, max_size=12)


@given(first=segments, second=segments, seed=st.integers(0, 100), epoch=st.integers(0, 5))
def test_with_weight_1_an_epoch_holds_every_record_once(
    first: list[list[int]], second: list[list[int]], seed: int, epoch: int
) -> None:
    chunks = table((1.0, first), (1.0, second))
    order = order_epoch(chunks, seed, epoch)
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
        records = records_in_order(order_epoch(chunks, seed, epoch))
        assert abs(len(records) - weight * held) < 1 + 1e-6
        assert len(records) == epoch_records(chunks, epoch)
        once = Counter(records)
        assert set(once.values()) <= {int(weight), int(weight) + 1}
        seen += once
    assert len(seen) == held
    assert set(seen.values()) == {round(weight * period)}


def test_a_half_is_not_the_same_half_of_every_chunk() -> None:
    order = order_epoch(table((0.5, [[64]] * 8)), 3, 0)
    halves = {part.chunk: tuple(order.selection(part)) for block in range(order.blocks) for part in order.parts(block)}
    assert len(set(halves.values())) == 8


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    chunks = table((1.0, [[50]] * 200))
    orders = {(seed, epoch): records_in_order(order_epoch(chunks, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}
    for (one, records), (other, others) in product(orders.items(), orders.items()):
        same = sum(a == b for a, b in zip(records, others, strict=True))
        assert same == 10_000 if one == other else same < 20
    assert orders[0, 0] == records_in_order(order_epoch(chunks, 0, 0))


def test_two_copies_of_a_chunk_are_placed_independently() -> None:
    order = order_epoch(table((2.0, [[10]] * 2000)), 0, 0)
    one, other = (np.argsort(order.chunk[order.copy == copy]) for copy in range(2))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.1


def test_chunks_of_a_segment_are_read_front_to_back() -> None:
    order = order_epoch(table((2.0, [[10] * 7, [10] * 30, [10], [10] * 3])), 1, 0)
    for segment in range(4):
        for copy in range(2):
            mine = (order.table.segment[order.chunk] == segment) & (order.copy == copy)
            assert np.all(np.diff(order.chunk[mine]) == 1)


def test_files_that_are_read_whole_are_interleaved_a_few_at_a_time() -> None:
    order = order_epoch(table((1.0, [[10] * 50 for _ in range(40)])), 0, 0)
    segments_read = order.table.segment[order.chunk]
    for start in range(0, len(segments_read), 50 * LANES):
        group = segments_read[start : start + 50 * LANES]
        assert len(set(group)) == LANES
        assert all(len(set(group[i : i + LANES])) == LANES for i in range(0, len(group), LANES))


def test_chunks_that_stand_alone_are_spread_between_those_that_do_not() -> None:
    chunks = table((1.0, [[10] * 200 for _ in range(5)]), (1.0, [[10]] * 1000))
    alone = chunks.source[order_epoch(chunks, 0, 0).chunk] == 1
    shares = alone.reshape(20, 100).mean(axis=1)
    assert shares.min() > 0.4
    assert shares.max() < 0.6


def test_blocks_are_bounded_in_records_and_bytes() -> None:
    by_records = order_epoch(table((1.0, [[250]] * 100)), 0, 0)
    sizes = np.diff(by_records.records_before)
    assert sizes.max() <= BLOCK_RECORDS < sizes.max() + 250
    by_bytes = order_epoch(table((1.0, [[250]] * 100), size=BLOCK_BYTES // 4), 0, 0)
    assert np.all(np.diff(by_bytes.bounds) == 4)


def test_a_chunk_above_the_limits_is_a_block_of_its_own() -> None:
    order = order_epoch(table((1.0, [[3], [3]]), size=2 * BLOCK_BYTES), 0, 0)
    assert order.blocks == 2


def test_records_of_a_block_come_from_many_places_of_an_ordered_file() -> None:
    chunks = table((1.0, [[256]] * 400))
    places = np.array([chunk for chunk, _ in records_in_order(order_epoch(chunks, 0, 0))[:BLOCK_RECORDS]])
    assert len(set(places.tolist())) == 16
    assert places.max() - places.min() > 200
    assert len(set(places[:100].tolist())) >= 12


def test_held_out_data_is_read_in_order() -> None:
    order = sequential_order(table((1.0, [[3], [2, 4]])))
    assert order.chunk.tolist() == [0, 1, 2]
    assert order.records == 9


def test_the_order_is_that_of_version_1() -> None:
    """A change here changes the order of every run: raise STATE_VERSION with it."""
    chunks = table((1.5, [[4], [3], [5]]), (1.0, [[2, 2], [3]]))
    found = [f"{chunk}.{n}" for chunk, n in records_in_order(order_epoch(chunks, 42, 1))]
    assert (
        " ".join(found)
        == "2.4 1.1 4.1 2.0 5.2 0.1 5.0 1.0 4.0 0.2 1.0 0.0 2.1 0.1 5.1 3.0 3.1 1.2 2.2 2.4 0.0 0.3 2.3 2.2 2.0"
    )


@pytest.mark.parametrize("weight", [1e-6, 1000.0])
def test_extreme_weights_are_counted_exactly(weight: float) -> None:
    chunks = table((weight, [[1000]] * 3))
    assert abs(order_epoch(chunks, 0, 0).records - 3000 * weight) <= 1
