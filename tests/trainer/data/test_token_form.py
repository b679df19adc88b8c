"""The token form of a source changes nothing of what is trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.data import (
    DatasetIndex,
    DataState,
    EvalSet,
    Quarantined,
    StepBatch,
    TokenForm,
    TrainStream,
    order,
)
from finetune_trainer.data.tokens import read, write
from finetune_trainer.spec import Overlong, Packing
from finetune_trainer.store import open_store
from finetune_trainer.store.file import FileStore
from small_data import conversation, held_out, index_of, make_tokenizer, sentence, settings, source, write_records
from token_forms import publish_all

BAD: list[Any] = [b"{", {"messages": [{"role": "user", "content": "no answer"}]}, {"messages": "\ud800<|im_end|>"}]
Described = list[tuple[Any, ...]]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks, index chunks and chunk objects of few records, so that small data has many borders."""
    monkeypatch.setattr(order, "BLOCK_RECORDS", 64)
    monkeypatch.setattr("finetune_trainer.data.scan.CHUNK_RECORDS", 16)
    monkeypatch.setattr(write, "CHUNK_BYTES", 3000)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatasetIndex]:
    """A mixture of chats with bad records among them, texts of which many are too long, and a table, three weights."""
    folder = tmp_path_factory.mktemp("data")
    chats = [BAD[i % 3] if i % 25 == 7 else conversation(i) for i in range(130)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("finetune_trainer.data.scan.CHUNK_RECORDS", 16)
        write_records(folder / "chats.jsonl", chats)
        write_records(folder / "texts.jsonl.gz", [{"text": sentence(i, i * 37 % 240 + 1)} for i in range(90)])
        write_records(folder / "table.parquet", [conversation(i) for i in range(130, 200)], row_group_size=40)
        yield index_of(
            source(folder / "chats.jsonl", weight=1.5),
            source(folder / "texts.jsonl.gz"),
            source(folder / "table.parquet", weight=2.25),
        )


def run(
    index: DatasetIndex, forms: dict[int, TokenForm], rank: int = 0, world_size: int = 1, **values: Any
) -> tuple[Iterator[StepBatch], list[Quarantined]]:
    bad: list[Quarantined] = []
    defaults = {"epochs": 2, "max_bad_ratio": 0.2, "global_batch_size": 7}
    state = values.pop("state", None)
    chosen = settings(**(defaults | values))
    stream = TrainStream(index, chosen, make_tokenizer(), rank, world_size, on_bad=bad.append, forms=forms)
    return stream.batches(state), bad


def described(batch: StepBatch) -> tuple[Any, ...]:
    rows = [
        [(r.records, r.input_ids.tobytes(), r.labels.tobytes(), r.position_ids.tobytes()) for r in micro]
        for micro in batch.micro_batches
    ]
    return (rows, batch.global_rows, batch.kept_tokens, batch.tokens, batch.epoch, batch.consumed, batch.state)


@pytest.mark.parametrize("packing", list(Packing))
@pytest.mark.parametrize("overlong", list(Overlong))
def test_batches_counters_and_bad_records_are_those_of_the_sources(
    index: DatasetIndex, tmp_path: Path, packing: Packing, overlong: Overlong
) -> None:
    forms = publish_all(open_store(f"file://{tmp_path}"), index, settings(overlong=overlong))
    assert all(len(form.index.sizes) > 1 for form in forms.values())
    raw, bad = run(index, {}, packing=packing, overlong=overlong)
    stored, bad_stored = run(index, forms, packing=packing, overlong=overlong)
    expected = [described(batch) for batch in raw]
    assert [described(batch) for batch in stored] == expected
    assert list(map(asdict, bad_stored)) == list(map(asdict, bad))
    assert len(expected) > 20
    counters = expected[-1][-1].counters
    assert counters.bad > 0
    assert counters.substituted == counters.bad
    assert counters.truncated + counters.split + counters.dropped > 10


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_every_rank_of_any_world_gets_the_batches_of_the_sources(
    index: DatasetIndex, tmp_path: Path, world_size: int
) -> None:
    forms = publish_all(open_store(f"file://{tmp_path}"), index, settings(overlong=Overlong.SPLIT))
    for rank in range(world_size):
        raw, stored = (run(index, some, rank, world_size, overlong=Overlong.SPLIT)[0] for some in ({}, forms))
        for expected, batch in zip(raw, stored, strict=True):
            assert described(batch) == described(expected)


def test_a_mixture_may_be_read_half_in_its_token_form(index: DatasetIndex, tmp_path: Path) -> None:
    forms = publish_all(open_store(f"file://{tmp_path}"), index, settings())
    expected = [described(batch) for batch in run(index, {})[0]]
    for some in ({0, 2}, {1}):
        chosen = {i: form for i, form in forms.items() if i in some}
        assert [described(batch) for batch in run(index, chosen)[0]] == expected


@pytest.mark.parametrize("first", ["raw", "stored"])
def test_a_run_goes_on_in_the_other_form(index: DatasetIndex, tmp_path: Path, first: str) -> None:
    forms = publish_all(open_store(f"file://{tmp_path}"), index, settings(overlong=Overlong.SPLIT))
    one, other = ({}, forms) if first == "raw" else (forms, {})
    whole = [described(batch) for batch in run(index, {}, overlong=Overlong.SPLIT)[0]]
    begun = [described(batch) for batch in run(index, one, overlong=Overlong.SPLIT)[0]]
    for done in range(1, len(whole), 9):
        state = DataState.model_validate_json(begun[done - 1][-1].model_dump_json())
        rest = run(index, other, overlong=Overlong.SPLIT, state=state)[0]
        assert [described(batch) for batch in rest] == whole[done:]


def test_held_out_rows_are_those_of_the_source(tmp_path: Path) -> None:
    records = [BAD[0] if i == 40 else conversation(i) for i in range(100)]
    index = index_of(held_out(write_records(tmp_path / "a.jsonl", records)))
    chosen = settings(max_bad_ratio=0.1)
    form = publish_all(open_store(f"file://{tmp_path}/tokens"), index, chosen)[0]
    sets = [EvalSet("held-out", index, chosen, make_tokenizer(), forms=one) for one in (None, {0: form})]
    rows = [[[r.input_ids.tolist() for r in micro] for micro in one.micro_batches(4)] for one in sets]
    assert rows[0] == rows[1]
    assert sets[0].counters == sets[1].counters
    assert sets[1].counters is not None
    assert sets[1].counters.bad == 1


def test_a_second_epoch_is_read_from_memory_as_far_as_the_budget_goes(
    index: DatasetIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forms = publish_all(open_store(f"file://{tmp_path}"), index, settings())
    pages = sum(sum(form.index.pages) for form in forms.values())
    total = sum(sum(form.index.sizes) for form in forms.values())
    read_pages = read.TokenReader._read_page
    reads: list[int] = []

    def counted(self: read.TokenReader, form: TokenForm, number: int) -> bytes | memoryview:
        reads.append(number)
        return read_pages(self, form, number)

    monkeypatch.setattr(read.TokenReader, "_read_page", counted)
    expected = [described(batch) for batch in run(index, {}, epochs=3)[0]]
    for budget, least, most in ((0, 4 * pages, 9 * pages), (total // 2, pages + 1, 4 * pages), (total, pages, pages)):
        reads.clear()
        monkeypatch.setattr(read.TokenReader.__init__, "__defaults__", (budget,))
        assert [described(batch) for batch in run(index, forms, epochs=3)[0]] == expected
        assert least <= len(reads) <= most


def test_a_form_that_fits_into_memory_is_read_once_by_whole_chunks(index: DatasetIndex, tmp_path: Path) -> None:
    forms = publish_all(open_store(f"file://{tmp_path}"), index, settings())
    expected = [described(batch) for batch in run(index, {})[0]]
    reads: list[tuple[str, int, int | None]] = []

    class Counting(FileStore):
        def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
            reads.append((key, start, length))
            return super().get(key, start, length)

    counted = {i: replace(form, store=Counting(tmp_path)) for i, form in forms.items()}
    assert [described(batch) for batch in run(index, counted)[0]] == expected
    chunks = [(form.index.chunk_key(n), 0, size) for form in forms.values() for n, size in enumerate(form.index.sizes)]
    assert sorted(reads) == sorted(chunks)
