from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune_trainer.data import (
    Amount,
    DataReport,
    DatasetIndex,
    DataSettings,
    EvalSet,
    TrainStream,
    data_report,
    order,
)
from finetune_trainer.data.report import Bucket, summarise_lengths
from finetune_trainer.spec import Format, Overlong, Packing
from small_data import conversation, index_of, make_tokenizer, settings, source, write_records

WORDS = ["".join(random.Random(n).choices("abcdefghijklmnopqrstuvwxyz", k=5)) for n in range(500)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of few records, so that small data has many borders."""
    monkeypatch.setattr(order, "BLOCK_RECORDS", 64)
    monkeypatch.setattr("finetune_trainer.data.scan.CHUNK_RECORDS", 16)


def text(seed: int, words: int = 60) -> dict[str, Any]:
    return {"text": " ".join(random.Random(seed).choices(WORDS, k=words))}


def near(record: dict[str, Any]) -> dict[str, Any]:
    """The record with one word of it replaced."""
    words = record["text"].split()
    words[len(words) // 2] = "otherwise"
    return {"text": " ".join(words)}


def report(
    train: DatasetIndex, *, amount: Amount | None = None, held_out: DatasetIndex | None = None, **values: Any
) -> DataReport:
    chosen: DataSettings = settings(**({"max_length": 512} | values))
    named = {} if held_out is None else {"held-out": held_out}
    return data_report(train, named, chosen, make_tokenizer(), amount or Amount(), lambda *_: None)


def mixture(folder: Path) -> DatasetIndex:
    """Conversations in every container, two weights, bad records and a text source."""
    bad = [{"messages": []}, b"{", {"messages": [{"role": "user", "content": "only a question"}]}]
    chats: list[Any] = [conversation(i) for i in range(150)]
    write_records(folder / "a.jsonl", [*chats[:40], *bad, *chats[40:90]])
    write_records(folder / "b.jsonl.gz", chats[90:120])
    write_records(folder / "c.parquet", chats[120:], row_group_size=20)
    write_records(folder / "d.jsonl", [text(i, 10 + 3 * i) for i in range(60)])
    return index_of(
        source(folder / "a.jsonl"),
        source(folder / "b.jsonl.gz", weight=2),
        source(folder / "c.parquet", weight=0.5),
        source(folder / "d.jsonl"),
    )


@pytest.mark.parametrize("packing", list(Packing))
@pytest.mark.parametrize("overlong", list(Overlong))
def test_numbers_are_those_of_the_stream_over_one_epoch(tmp_path: Path, packing: Packing, overlong: Overlong) -> None:
    index = mixture(tmp_path)
    values: dict[str, Any] = {"packing": packing, "overlong": overlong, "max_length": 96, "max_bad_ratio": 1.0}
    batches = list(TrainStream(index, settings(**values), make_tokenizer()).batches())
    streamed = batches[-1].state.counters
    found = report(index, **values).train
    same = ("documents", "tokens", "kept_tokens", "truncated", "split", "dropped", "lost_tokens", "bad")
    assert {name: getattr(found.total, name) for name in same} == {name: getattr(streamed, name) for name in same}
    assert found.total.read == found.total.expected == streamed.records == 93 + 60 + 15 + 60
    assert found.rows == found.whole.rows == sum(batch.global_rows for batch in batches)
    assert found.whole.steps == len(batches)
    assert (found.whole.tokens, found.whole.kept_tokens) == (streamed.tokens, streamed.kept_tokens)
    assert found.fill == pytest.approx(streamed.tokens / (96 * found.rows))
    for name in same:
        assert getattr(found.total, name) == sum(getattr(one.counts, name) for one in found.sources)
    assert not found.estimated


def test_numbers_of_a_held_out_set_are_those_of_its_evaluation(tmp_path: Path) -> None:
    train, held_out = tmp_path / "train.jsonl", tmp_path / "held-out.jsonl"
    write_records(train, [conversation(i) for i in range(20)])
    write_records(held_out, [conversation(100), b"{", *(conversation(i) for i in range(200, 300))])
    index = index_of(source(held_out))
    values: dict[str, Any] = {"max_length": 48, "max_bad_ratio": 1.0}
    evaluated = EvalSet("held-out", index, settings(**values), make_tokenizer())
    rows = sum(len(batch) for batch in evaluated.micro_batches(4))
    found = report(index_of(source(train)), held_out=index, **values).eval[0]
    assert evaluated.counters is not None
    assert (found.total.tokens, found.total.kept_tokens) == (evaluated.counters.tokens, evaluated.counters.kept_tokens)
    assert (found.rows, found.total.bad, found.whole.steps) == (rows, 1, None)


def test_planted_duplicates_are_counted_exactly_whatever_the_weights(tmp_path: Path) -> None:
    texts = [text(i) for i in range(200)]
    first: list[Any] = [*texts[:100], {"id": 7, "text": texts[3]["text"]}, near(texts[5])]
    second: list[Any] = [*texts[100:], json.dumps({"text": texts[150]["text"], "x": None}), texts[4], near(texts[160])]
    a, b = write_records(tmp_path / "a.jsonl", first), write_records(tmp_path / "b.jsonl", second)
    index = index_of(source(a), source(b, weight=3))
    for seed in range(3):
        found = report(index, seed=seed).train
        counts = [(one.counts.exact_duplicates, one.counts.near_duplicates) for one in found.sources]
        assert counts == [(1, 1), (2, 1)]
        assert (found.total.exact_duplicates, found.total.near_duplicates) == (3, 2)
        assert found.total.read == len(first) + 3 * len(second)
    matches = [(m.record, m.earlier, m.near) for one in found.sources for m in one.duplicates]
    name = f"file://{tmp_path}"
    assert matches == [
        (f"{name}/a.jsonl#101", f"{name}/a.jsonl#4", False),
        (f"{name}/a.jsonl#102", f"{name}/a.jsonl#6", True),
        (f"{name}/b.jsonl#101", f"{name}/b.jsonl#51", False),
        (f"{name}/b.jsonl#102", f"{name}/a.jsonl#5", False),
        (f"{name}/b.jsonl#103", f"{name}/b.jsonl#61", True),
    ]


def test_a_file_that_is_named_twice_is_all_duplicates_the_second_time(tmp_path: Path) -> None:
    path = write_records(tmp_path / "a.jsonl", [text(i) for i in range(30)])
    found = report(index_of(source(path), source(tmp_path / "*.jsonl"))).train
    assert [one.counts.exact_duplicates for one in found.sources] == [0, 30]


def test_held_out_records_that_are_trained_on_are_counted(tmp_path: Path) -> None:
    texts = [text(i) for i in range(150)]
    train = write_records(tmp_path / "train.jsonl", texts[:100])
    held_out = [*texts[100:], texts[0], texts[0], near(texts[1]), text(999)]
    found = report(
        index_of(source(train)), held_out=index_of(source(write_records(tmp_path / "held-out.jsonl", held_out)))
    )
    overlap = found.eval[0].overlap
    assert overlap is not None
    assert (overlap.exact, overlap.near) == (2, 1)
    assert [(m.record[-3:], m.earlier[-8:]) for m in overlap.examples] == [
        ("#51", ".jsonl#1"),
        ("#52", ".jsonl#1"),
        ("#53", ".jsonl#2"),
    ]
    assert (found.eval[0].total.exact_duplicates, found.eval[0].total.near_duplicates) == (1, 0)
    assert (found.train.total.exact_duplicates, found.train.overlap) == (0, None)


@pytest.mark.parametrize(
    ("overlong", "expected"),
    [(Overlong.TRUNCATE, (4, 0, 0)), (Overlong.SPLIT, (0, 4, 0)), (Overlong.DROP, (0, 0, 4))],
)
def test_overlong_and_bad_records_are_counted_with_their_reasons(
    tmp_path: Path, overlong: Overlong, expected: tuple[int, int, int]
) -> None:
    records: list[Any] = [text(i, 20) for i in range(90)]
    for place in (3, 30, 60, 80):
        records[place] = text(place, 200)
    records[10], records[70] = b'{"text": 3}', b"\xff"
    found = report(index_of(source(write_records(tmp_path / "a.jsonl", records))), overlong=overlong).train
    total = found.total
    assert (total.truncated, total.split, total.dropped) == expected
    assert (total.bad, total.read, total.lost_tokens > 0) == (2, 90, overlong is not Overlong.SPLIT)
    bad = {(b.record.rpartition("#")[2], b.reason) for b in found.sources[0].bad_records}
    assert bad == {("11", "'text' is a int instead of a string"), ("71", "not valid UTF-8 at byte 0 of the line")}
    assert total.lengths.max > 512
    assert sum(bucket.records for bucket in total.lengths.histogram) == 88


def test_a_report_holds_no_content(tmp_path: Path) -> None:
    secret = "xylophonequartz"
    records: list[Any] = [text(i) for i in range(40)]
    records += [{"text": f"{secret} {text(50)['text']}"}] * 2 + [json.dumps({"text": secret})[:-2], {"other": secret}]
    index = index_of(source(write_records(tmp_path / "a.jsonl", records), format_=Format.TEXT))
    found = report(index, held_out=index, max_length=64)
    assert (found.train.total.bad, found.train.total.exact_duplicates) == (2, 1)
    assert secret not in found.model_dump_json()


def test_a_sample_takes_so_many_records_of_each_source_and_estimates_the_rest(tmp_path: Path) -> None:
    index = mixture(tmp_path)
    whole = report(index, max_bad_ratio=1.0).train
    sampled = report(index, amount=Amount(per_source=20), max_bad_ratio=1.0).train
    assert [one.counts.read for one in sampled.sources] == [20, 20, 15, 20]
    assert sampled.estimated
    assert sampled.total.expected == whole.total.read
    assert sampled.whole.tokens == pytest.approx(whole.whole.tokens, rel=0.25)
    assert sampled.whole.rows == pytest.approx(whole.whole.rows, rel=0.3)
    again = report(index, amount=Amount(per_source=20), max_bad_ratio=1.0).train
    assert again == sampled
    limited = report(index, amount=Amount(per_set=50), max_bad_ratio=1.0).train
    assert (limited.total.read, limited.estimated) == (50, True)


def test_lengths_are_summed_up_in_buckets_that_double() -> None:
    lengths = summarise_lengths(np.array([1, 3, 4, 7, 8, 1023, 1024], dtype=np.int32))
    buckets = {(1, 1): 1, (2, 3): 1, (4, 7): 2, (8, 15): 1, (512, 1023): 1, (1024, 2047): 1}
    assert [b for b in lengths.histogram if b.records] == [
        Bucket(first=first, last=last, records=count) for (first, last), count in buckets.items()
    ]
    assert (lengths.p50, lengths.p90, lengths.p99, lengths.max) == (7, 1024, 1024, 1024)
    assert summarise_lengths(np.array([], dtype=np.int32)).max == 0
