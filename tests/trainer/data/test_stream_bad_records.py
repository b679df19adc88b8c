"""What the stream does about records that are too long, and about those that cannot be used."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.data import DatasetIndex, Quarantined, StepBatch, TrainStream, budget, order
from finetune_trainer.errors import DataError
from finetune_trainer.spec import Format, Overlong, Packing
from small_data import conversation, index_of, make_tokenizer, settings, source, write_records


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of few records, so that small data has many borders."""
    monkeypatch.setattr(order, "BLOCK_RECORDS", 64)
    monkeypatch.setattr("finetune_trainer.data.scan.CHUNK_RECORDS", 16)


def stream(index: DatasetIndex, on_bad: Any = None, **values: Any) -> TrainStream:
    return TrainStream(index, settings(**values), make_tokenizer(), on_bad=on_bad)


def token_ids(batches: list[StepBatch]) -> list[list[int]]:
    return [row.input_ids.tolist() for batch in batches for row in batch.rows]


def test_splitting_spreads_a_record_over_rows(tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl", [{"text": "the answer " * (i * 10)} for i in range(1, 20)])
    batches = list(stream(index_of(source(tmp_path / "a.jsonl")), overlong=Overlong.SPLIT).batches())
    counters = batches[-1].state.counters
    assert counters.split > 10
    assert counters.documents > counters.records == 19
    assert counters.truncated == counters.dropped == counters.bad == 0
    pieces = Counter(record for batch in batches for record in batch.samples())
    assert max(pieces.values()) > 3


def test_dropping_leaves_records_out_and_counts_them(tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl", [{"text": "the answer " * (100 if i % 4 == 0 else 1)} for i in range(40)])
    batches = list(stream(index_of(source(tmp_path / "a.jsonl")), overlong=Overlong.DROP).batches())
    counters = batches[-1].state.counters
    assert (counters.records, counters.documents, counters.dropped, counters.bad) == (40, 30, 10, 0)
    assert batches[-1].consumed == 1.0


def test_data_without_a_token_to_train_is_refused(tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl", [{"text": "the answer " * 100} for _ in range(200)])
    running = stream(index_of(source(tmp_path / "a.jsonl")), overlong=Overlong.DROP, max_steps=10).batches()
    with pytest.raises(
        DataError,
        match=r"spec\.data\.train: none of 200 records in a row leaves a token to train: 200 are longer than "
        r"spec\.data\.maxLength \(96 tokens\) and dropped, 0 cannot be used; raise spec\.data\.maxLength",
    ):
        next(running)


def test_data_without_a_token_to_train_is_refused_long_before_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "HOPELESS", 100)
    write_records(tmp_path / "a.jsonl", [{"text": "the answer " * 100} for _ in range(500)])
    running = stream(index_of(source(tmp_path / "a.jsonl")), overlong=Overlong.DROP, epochs=1).batches()
    with pytest.raises(DataError, match="none of 128 records in a row leaves a token to train"):
        next(running)


def test_a_small_block_of_dropped_records_is_no_verdict_on_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks have one record each here, as those of very large records have."""
    monkeypatch.setattr(order, "BLOCK_RECORDS", 1)
    monkeypatch.setattr("finetune_trainer.data.scan.CHUNK_RECORDS", 1)
    write_records(tmp_path / "a.jsonl", [{"text": "the answer " * (100 if i % 20 else 1)} for i in range(60)])
    made = stream(index_of(source(tmp_path / "a.jsonl")), overlong=Overlong.DROP, global_batch_size=2, epochs=2)
    batches = list(made.batches())
    assert Counter(record for batch in batches for record in batch.samples()).total() == 6
    for batch in batches[:-1]:
        resumed = list(made.batches(batch.state))
        assert resumed[-1].state == batches[-1].state


def test_weights_that_leave_no_record_are_refused(tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl", [conversation(i) for i in range(10)])
    with pytest.raises(DataError, match="an epoch has no record"):
        stream(index_of(source(tmp_path / "a.jsonl", weight=1e-7)))


def damaged(tmp_path: Path, bad: dict[int, Any], count: int = 100) -> DatasetIndex:
    records = [bad.get(i, conversation(i)) for i in range(count)]
    return index_of(source(write_records(tmp_path / "a.jsonl", records), format_=Format.MESSAGES))


BAD = {
    3: "{not json",
    20: b'{"messages": "\xff"}',
    21: {"messages": [{"role": "user", "content": "Hi"}]},
    50: {"messages": [{"role": "user", "content": "the " * 200}, {"role": "assistant", "content": "ok"}]},
    99: {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "\ud800"}]},
}
REASONS = {
    "a.jsonl#4": "not valid JSON",
    "a.jsonl#21": "not valid UTF-8",
    "a.jsonl#22": "no assistant message",
    "a.jsonl#51": "no trained token within spec.data.maxLength",
    "a.jsonl#100": "surrogate",
}


def test_bad_records_are_quarantined_and_replaced(tmp_path: Path) -> None:
    quarantined: list[Quarantined] = []
    bad_index = damaged(tmp_path, BAD)
    made = stream(bad_index, max_bad_ratio=0.05, on_bad=quarantined.append)
    batches = list(made.batches())
    assert {record.record.rsplit("/", 1)[1]: record.reason for record in quarantined}.keys() == REASONS.keys()
    for record in quarantined:
        assert REASONS[record.record.rsplit("/", 1)[1]] in record.reason
        assert 0 < len(record.excerpt) <= 203
    seen = Counter(record for batch in batches for record in batch.samples())
    assert seen.total() == 100
    assert len(seen) == 95
    counters = batches[-1].state.counters
    assert (counters.records, counters.bad, counters.substituted) == (100, 5, 5)
    assert token_ids(list(stream(bad_index, max_bad_ratio=0.05).batches())) == token_ids(batches)


def test_bad_records_are_not_told_twice_after_a_resume(tmp_path: Path) -> None:
    bad_index = damaged(tmp_path, BAD)
    whole: list[str] = []
    made = stream(bad_index, max_bad_ratio=0.05, on_bad=lambda q: whole.append(q.record))
    batches = list(made.batches())
    assert batches[1].state.row
    for stop in (1, 2, len(batches) - 1):
        told: list[Quarantined] = []
        parts = stream(bad_index, max_bad_ratio=0.05, on_bad=told.append)
        before = parts.batches()
        state = [next(before) for _ in range(stop)][-1].state
        before.close()
        assert list(parts.batches(state))[-1].state == batches[-1].state
        assert [record.record for record in told] == whole


def test_too_many_bad_records_fail_with_the_first_ones_named(tmp_path: Path) -> None:
    bad_index = damaged(tmp_path, BAD)
    with pytest.raises(DataError) as failed:
        list(stream(bad_index, max_bad_ratio=0.049).batches())
    message = str(failed.value)
    assert "5 of the 100 records of epoch 1 cannot be used" in message
    assert "spec.data.badRecords.maxRatio" in message
    assert all(name in message and reason in message for name, reason in REASONS.items())
    assert "not json" not in message  # content stays out of logs


def test_the_budget_counts_every_epoch_anew(tmp_path: Path) -> None:
    bad_index = damaged(tmp_path, BAD)
    batches = list(stream(bad_index, max_bad_ratio=0.05, epochs=3).batches())
    assert batches[-1].state.counters.bad == 15
    assert batches[-1].state.bad_in_epoch == 5


def test_a_small_block_of_bad_records_is_within_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks have one record each here, as those of very large records have."""
    monkeypatch.setattr(order, "BLOCK_RECORDS", 1)
    monkeypatch.setattr("finetune_trainer.data.scan.CHUNK_RECORDS", 1)
    bad_index = damaged(tmp_path, BAD)
    for seed in range(20):
        batches = list(stream(bad_index, max_bad_ratio=0.05, seed=seed, packing=Packing.NONE).batches())
        counters = batches[-1].state.counters
        assert (counters.records, counters.bad, counters.documents) == (100, 5, 95)


def test_a_block_without_a_good_record_fails_whatever_the_budget(tmp_path: Path) -> None:
    bad_index = damaged(tmp_path, {i: {"messages": []} for i in range(100)})
    with pytest.raises(DataError, match=r"none of \d+ records in a row can be used: .*a\.jsonl#\d+: "):
        list(stream(bad_index, max_bad_ratio=1.0).batches())
