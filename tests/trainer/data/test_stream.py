from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune_trainer.data import DatasetIndex, DataState, EvalSet, Row, StepBatch, TrainStream, order
from finetune_trainer.errors import DataError
from finetune_trainer.spec import Packing
from small_data import conversation, index_of, make_tokenizer, settings, source, trained_texts, write_records

RECORDS = 300


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of few records, so that small data has many borders."""
    monkeypatch.setattr(order, "BLOCK_RECORDS", 64)
    monkeypatch.setattr("finetune_trainer.data.scan.CHUNK_RECORDS", 16)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatasetIndex]:
    """300 conversations, in every container."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("finetune_trainer.data.scan.CHUNK_RECORDS", 16)
        write_records(folder / "a.jsonl", [conversation(i) for i in range(90)])
        write_records(folder / "b.jsonl.gz", [conversation(i) for i in range(90, 150)])
        write_records(folder / "c.jsonl.zst", [conversation(i) for i in range(150, 220)])
        write_records(folder / "d.parquet", [conversation(i) for i in range(220, RECORDS)], row_group_size=50)
        yield index_of(source(folder / "*.jsonl*"), source(folder / "*.parquet"))


def stream(index: DatasetIndex, rank: int = 0, world_size: int = 1, **values: Any) -> TrainStream:
    return TrainStream(index, settings(**values), make_tokenizer(), rank, world_size)


def contents(rows: Sequence[Row]) -> list[tuple[Any, ...]]:
    return [(r.records, r.input_ids.tolist(), r.labels.tolist(), r.position_ids.tolist()) for r in rows]


def described(batch: StepBatch) -> tuple[Any, ...]:
    """Everything that must not depend on how one got here."""
    return (contents(batch.rows), batch.global_rows, batch.kept_tokens, batch.tokens, batch.consumed, batch.state)


@pytest.mark.parametrize("packing", list(Packing))
def test_every_record_is_seen_once_per_epoch(index: DatasetIndex, packing: Packing) -> None:
    batches = list(stream(index, epochs=2, packing=packing).batches())
    seen = Counter(record for batch in batches for record in batch.samples())
    assert len(seen) == RECORDS
    assert set(seen.values()) == {2}
    assert all(batch.global_rows == 8 for batch in batches[:-1])
    assert batches[-1].consumed == 1.0
    assert batches[-1].epoch == 2.0
    assert batches[-1].state.counters.records == 2 * RECORDS


def test_rows_hold_whole_documents_with_their_masks_and_positions(index: DatasetIndex) -> None:
    tokenizer = make_tokenizer()
    answers = {f"{i}: " for i in range(RECORDS)}
    for batch in stream(index).batches():
        for row in batch.rows:
            assert len(row) <= 96
            starts = np.flatnonzero(row.position_ids == 0)
            assert len(starts) == len(row.records)
            lengths = np.diff([*starts, len(row)])
            assert row.position_ids.tolist() == [p for length in lengths for p in range(length)]
            assert np.all(row.labels[starts] == -100)
            for text in trained_texts(tokenizer, row.input_ids, row.labels):
                assert text.endswith("<|im_end|>")
                answers.remove(text[: text.index(" ") + 1])
    assert not answers


def test_counts_are_those_of_the_rows(index: DatasetIndex) -> None:
    batches = list(stream(index).batches())
    for batch in batches:
        assert batch.tokens == sum(len(row) for row in batch.rows)
        assert batch.kept_tokens == sum(int(np.sum(row.labels[1:] != -100)) for row in batch.rows)
    counters = batches[-1].state.counters
    assert counters.tokens == sum(batch.tokens for batch in batches)
    assert counters.kept_tokens == sum(batch.kept_tokens for batch in batches)
    assert counters.documents == counters.records == RECORDS


def test_consumption_only_grows(index: DatasetIndex) -> None:
    batches = list(stream(index, epochs=2).batches())
    for name in ("consumed", "epoch"):
        values = [getattr(batch, name) for batch in batches]
        assert values == sorted(values)
        assert len(set(values)) == len(values)
    assert all(batch.epoch == pytest.approx(2 * batch.consumed) for batch in batches)


@pytest.mark.parametrize("packing", list(Packing))
def test_resuming_after_any_batch_gives_the_same_rest(index: DatasetIndex, packing: Packing) -> None:
    whole = [described(batch) for batch in stream(index, epochs=2, packing=packing, global_batch_size=7).batches()]
    states = [batch[-1] for batch in whole]
    assert any(state.row for state in states)
    step = 1 if packing is Packing.BEST_FIT else 7
    for done in range(1, len(whole) + 1, step):
        state = DataState.model_validate_json(states[done - 1].model_dump_json())
        resumed = stream(index, epochs=2, packing=packing, global_batch_size=7).batches(state)
        for expected in whole[done : done + 3]:
            assert described(next(resumed)) == expected
        if done + 3 >= len(whole):
            assert next(resumed, None) is None
        resumed.close()


def test_a_state_that_does_not_say_where_its_block_begins_goes_on_too(index: DatasetIndex) -> None:
    whole = [described(batch) for batch in stream(index, epochs=2, global_batch_size=7).batches()]
    for done in range(1, len(whole), 5):
        written = whole[done - 1][-1].model_dump(exclude={"start"})
        resumed = stream(index, epochs=2, global_batch_size=7).batches(DataState.model_validate(written))
        assert [described(batch) for batch in resumed] == whole[done:]


@pytest.mark.parametrize("packing", list(Packing))
def test_any_world_size_trains_on_the_same_global_batches(index: DatasetIndex, packing: Packing) -> None:
    def global_batches(world_size: int) -> list[Any]:
        streams = [stream(index, rank, world_size, packing=packing).batches() for rank in range(world_size)]
        found = []
        for shares in zip(*streams, strict=True):
            assert len({len(share.micro_batches) for share in shares}) == 1
            assert all(len(rows) <= 2 for share in shares for rows in share.micro_batches)
            facts = {(s.global_rows, s.kept_tokens, s.tokens, s.consumed, s.state.model_dump_json()) for s in shares}
            assert len(facts) == 1
            rows = sorted(contents([row for share in shares for row in share.rows]))
            assert len(rows) == shares[0].global_rows
            found.append((rows, facts))
        return found

    alone = global_batches(1)
    for world_size in (2, 3, 4, 5, 7, 8) if packing is Packing.BEST_FIT else (3, 8):
        assert global_batches(world_size) == alone


def test_a_run_goes_on_under_another_world_size(index: DatasetIndex) -> None:
    whole = list(stream(index).batches())
    state = whole[4].state
    shares = [next(iter(stream(index, rank, 3).batches(state))) for rank in range(3)]
    rows = sorted(contents([row for share in shares for row in share.rows]))
    assert rows == sorted(contents(whole[5].rows))


def test_with_max_steps_epochs_go_on_until_the_caller_stops(index: DatasetIndex) -> None:
    batches = []
    running = stream(index, max_steps=60, epochs=None).batches()
    for _ in range(60):
        batches.append(next(running))
    assert batches[-1].epoch > 1.0
    assert all(batch.global_rows == 8 for batch in batches)
    assert batches[29].consumed == 0.5
    assert batches[59].consumed == 1.0


def test_seeds_have_orders_of_their_own(index: DatasetIndex) -> None:
    one, other = (next(iter(stream(index, seed=seed).batches())).samples() for seed in (0, 1))
    assert set(one) != set(other)


def test_lengths_do_not_tell_when_a_row_is_trained_on(index: DatasetIndex) -> None:
    documents = [len(row.records) for batch in stream(index).batches() for row in batch.rows]
    half = len(documents) // 2
    assert abs(np.mean(documents[:half]) - np.mean(documents[half:])) < 0.5


def test_the_state_stays_small(index: DatasetIndex) -> None:
    big = 10**12
    counters = {name: big for name in DataState(index_id="").counters.model_dump()}
    start = order.BlockStart(*[big] * len(order.BlockStart()))
    state = DataState(index_id=index.id, epoch=9999, block=big, start=start, row=4096, batches=big, bad_in_epoch=big)
    state = state.model_copy(update={"counters": state.counters.model_validate(counters)})
    assert len(state.model_dump_json()) < 1024


def test_weights_mix_sources(tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl", [conversation(i) for i in range(100)])
    write_records(tmp_path / "b.jsonl.zst", [conversation(i) for i in range(100)])
    mixed = index_of(source(tmp_path / "a.jsonl", weight=0.5), source(tmp_path / "b.jsonl.zst", weight=2))
    state: DataState | None = None
    seen: list[Counter[str]] = []
    for _ in range(2):
        epoch: Counter[str] = Counter()
        for batch in stream(mixed, epochs=len(seen) + 1).batches(state):
            epoch.update(record.rsplit("/", 1)[1] for record in batch.samples())
            state = batch.state
        seen.append(epoch)
    for epoch in seen:
        assert sum(count for record, count in epoch.items() if record.startswith("a.")) == 50
        assert {count for record, count in epoch.items() if record.startswith("b.")} == {2}
    assert len(seen[0] + seen[1]) == 200


def test_unpacked_rows_hold_one_document_and_meet_their_like(index: DatasetIndex) -> None:
    for batch in stream(index, packing=Packing.NONE, global_batch_size=32).batches():
        assert all(len(row.records) == 1 for row in batch.rows)
        lengths = [len(row) for row in batch.rows]
        assert lengths == sorted(lengths, reverse=True)


def test_conversations_need_a_template_before_the_first_of_them_is_read(tmp_path: Path) -> None:
    question, answer = conversation(1)["messages"]
    path = write_records(tmp_path / "a.jsonl", [{"prompt": [question], "completion": [answer]}])
    for made in (TrainStream, lambda *given: EvalSet("held-out", *given)):
        with pytest.raises(DataError, match="no chat template, which conversations need"):
            made(index_of(source(path)), settings(), make_tokenizer(None))


def test_a_state_of_other_data_is_refused(index: DatasetIndex, tmp_path: Path) -> None:
    state = next(iter(stream(index).batches())).state
    other = index_of(source(write_records(tmp_path / "a.jsonl", [conversation(0)])))
    with pytest.raises(DataError, match="training data changed since the checkpoint"):
        next(stream(other).batches(state))
    with pytest.raises(DataError, match="data order has version 0"):
        next(stream(index).batches(state.model_copy(update={"version": 0})))


def test_an_audit_shows_counts_and_a_sample_before_the_first_batch(index: DatasetIndex) -> None:
    made = stream(index)
    before = made.audit()
    assert before.counters.records == 64
    assert 0 < before.kept_share < 1
    assert before.sample[0][0].startswith("<|im_start|>user\n")
    assert [trained for _, trained in before.sample][:2] == [False, True]
    assert before.sample[1][0].endswith("<|im_end|>")
    assert before.report is not None
    assert (before.report.total.read, before.report.total.expected, before.report.estimated) == (64, RECORDS, True)
    assert before.report.total.tokens == before.counters.tokens
    assert before.report.whole.steps == pytest.approx(made.estimated_batches(), abs=3)
    last = list(made.batches())[-1]
    assert made.audit().counters == last.state.counters
    assert made.audit().kept_share == last.state.counters.kept_tokens / last.state.counters.tokens
    assert [item["records"] for item in made.audit().sources] == [220, 80]


def test_the_number_of_batches_is_estimated_from_the_first_block(index: DatasetIndex) -> None:
    made = stream(index, epochs=3)
    assert made.estimated_batches() == pytest.approx(len(list(made.batches())), rel=0.1)
    assert stream(index, max_steps=17, epochs=None).estimated_batches() == 17


def test_closing_ends_the_background_work(index: DatasetIndex) -> None:
    before = threading.active_count()
    running = stream(index).batches()
    next(running)
    assert threading.active_count() > before
    running.close()
    assert threading.active_count() == before
