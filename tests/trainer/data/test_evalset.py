from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.data import DatasetIndex, EvalSet, Quarantined, Row, order
from finetune_trainer.errors import DataError
from finetune_trainer.spec import Format, Packing
from small_data import conversation, held_out, index_of, make_tokenizer, settings, write_records

RECORDS = 101


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of few records, so that small data has many borders."""
    monkeypatch.setattr(order, "BLOCK_RECORDS", 32)
    monkeypatch.setattr("finetune_trainer.data.scan.CHUNK_RECORDS", 8)


def make_index(tmp_path: Path, bad: dict[int, Any] | None = None) -> DatasetIndex:
    records = [(bad or {}).get(i, conversation(i)) for i in range(RECORDS)]
    write_records(tmp_path / "a.jsonl", records[:50])
    write_records(tmp_path / "b.jsonl.zst", records[50:])
    return index_of(held_out(tmp_path / "*", format_=Format.MESSAGES))


def make_set(index: DatasetIndex, rank: int = 0, world_size: int = 1, on_bad: Any = None, **values: Any) -> EvalSet:
    return EvalSet("held-out", index, settings(**values), make_tokenizer(), rank, world_size, on_bad=on_bad)


def rows_of(held: EvalSet, size: int = 2) -> list[Row]:
    return [row for rows in held.micro_batches(size) for row in rows]


def documents(rows: list[Row]) -> Counter[tuple[str, tuple[int, ...]]]:
    """Every document by its id, with the labels of its tokens."""
    found: Counter[tuple[str, tuple[int, ...]]] = Counter()
    for row in rows:
        starts = [i for i, position in enumerate(row.position_ids) if position == 0]
        for record, start, end in zip(row.records, starts, [*starts[1:], len(row)], strict=True):
            found[record, tuple(row.labels[start:end].tolist())] += 1
    return found


def test_every_record_is_evaluated_once_packed_or_not(tmp_path: Path) -> None:
    index = make_index(tmp_path)
    packed, plain = (documents(rows_of(make_set(index, packing=packing))) for packing in Packing)
    assert packed == plain
    assert len(packed) == packed.total() == RECORDS


@pytest.mark.parametrize("world_size", [2, 3, 5])
@pytest.mark.parametrize("packing", list(Packing))
def test_ranks_share_the_rows_and_take_equally_many_steps(tmp_path: Path, world_size: int, packing: Packing) -> None:
    index = make_index(tmp_path)
    shares = [list(make_set(index, rank, world_size, packing=packing).micro_batches(2)) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1
    together = [row for share in shares for rows in share for row in rows]
    assert documents(together) == documents(rows_of(make_set(index, packing=packing)))


def test_a_second_pass_gives_the_same_rows(tmp_path: Path) -> None:
    held = make_set(make_index(tmp_path))
    one, other = rows_of(held), rows_of(held)
    assert [row.input_ids.tolist() for row in one] == [row.input_ids.tolist() for row in other]
    assert held.counters is not None
    assert held.counters.records == RECORDS
    assert held.counters.tokens == sum(len(row) for row in one)


def test_bad_records_are_left_out_and_told_once(tmp_path: Path) -> None:
    told: list[Quarantined] = []
    index = make_index(tmp_path, {7: "{", 60: {"messages": []}})
    held = make_set(index, on_bad=told.append, max_bad_ratio=0.02)
    for _ in range(2):
        assert documents(rows_of(held)).total() == RECORDS - 2
    assert [record.record.rsplit("/", 1)[1] for record in told] == ["a.jsonl#8", "b.jsonl.zst#11"]
    assert held.counters is not None
    assert (held.counters.bad, held.counters.substituted) == (2, 0)


def test_too_many_bad_records_fail(tmp_path: Path) -> None:
    held = make_set(make_index(tmp_path, {7: "{"}), max_bad_ratio=0.009)
    with pytest.raises(
        DataError, match=r"1 of the 101 records of the held-out set 'held-out' .*a\.jsonl#8: not valid JSON"
    ):
        rows_of(held)


def test_a_last_block_of_bad_records_is_within_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "BLOCK_RECORDS", 8)
    index = make_index(tmp_path, {100: "{", 99: "{", 98: "{"})  # blocks are chunks, and the last one holds these
    held = make_set(index, max_bad_ratio=0.03)
    assert documents(rows_of(held)).total() == RECORDS - 3


def test_a_set_without_a_good_record_fails_whatever_the_budget(tmp_path: Path) -> None:
    held = make_set(make_index(tmp_path, dict.fromkeys(range(RECORDS), "{")), max_bad_ratio=1.0)
    with pytest.raises(DataError, match=r"the held-out set 'held-out': none of 101 records in a row can be used: "):
        rows_of(held)
