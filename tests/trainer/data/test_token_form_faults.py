"""Token forms that are damaged, left half written, or published twice, on a real S3 server."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from finetune_trainer.data import DatasetIndex, TokenForm, TrainStream, find_form, form_facts, form_key, point_to
from finetune_trainer.data.tokens import read, write
from finetune_trainer.data.tokens.cache import PageCache
from finetune_trainer.errors import StorageError
from finetune_trainer.spec import Overlong
from finetune_trainer.store import CorruptObject, ObjectStore, open_store
from s3_bucket import Bucket
from small_data import conversation, index_of, make_tokenizer, settings, source, write_records
from token_forms import publish_source


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_trainer.data.scan.CHUNK_RECORDS", 16)
    monkeypatch.setattr(write, "CHUNK_BYTES", 3000)


@pytest.fixture
def index(tmp_path: Path) -> DatasetIndex:
    return index_of(source(write_records(tmp_path / "a.jsonl", [conversation(i) for i in range(100)])))


@pytest.fixture
def store(bucket: Bucket) -> ObjectStore:
    return open_store(f"{bucket.uri}/tokens")


def read_all(index: DatasetIndex, form: TokenForm) -> int:
    batches = TrainStream(index, settings(), make_tokenizer(), forms={0: form}).batches()
    return sum(batch.tokens for batch in batches)


def replace(store: ObjectStore, key: str, change: Callable[[bytes], bytes]) -> None:
    data = store.get(key)
    store.delete([key])
    store.create(key, change(data))


def flip(at: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.fixture(params=["page by page", "by whole chunks"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forms that do not fit into memory, and that do."""
    if request.param == "page by page":
        monkeypatch.setattr(read.TokenReader.__init__, "__defaults__", (0,))


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda data: data[:-1], "it ends 1 bytes early"),
        (lambda data: data[:20], "early"),
        (flip(9), "have the CRC64NVME"),
        (flip(-1), "have the CRC64NVME"),
        (flip(1500), "have the CRC64NVME"),
    ],
    ids=["torn", "torn directory", "flipped directory", "flipped end", "flipped page"],
)
def test_a_damaged_chunk_is_found_and_named(index: DatasetIndex, store: ObjectStore, change: Any, problem: str) -> None:
    form = publish_source(store, index, 0, settings())
    assert read_all(index, form) > 0
    key = form.index.chunk_key(1)
    replace(store, key, change)
    with pytest.raises(CorruptObject, match=f"{store.uri}/{key} is damaged: .*{problem}.*finetune prepare"):
        read_all(index, form)


@pytest.mark.usefixtures("either_way")
def test_a_missing_chunk_and_a_damaged_index_are_named(index: DatasetIndex, store: ObjectStore) -> None:
    form = publish_source(store, index, 0, settings())
    store.delete([form.index.chunk_key(0)])
    with pytest.raises(CorruptObject, match=f"{form.index.chunk_key(0)} is damaged: it is missing"):
        read_all(index, form)
    replace(store, f"{form.index.key}/index.json", lambda data: data[:-2])
    with pytest.raises(StorageError, match=rf"{form.index.key}/index.json is no index of a token form"):
        find_form(store, form.index.key)


@pytest.mark.usefixtures("either_way")
def test_a_chunk_of_other_records_is_refused(index: DatasetIndex, store: ObjectStore, tmp_path: Path) -> None:
    form = publish_source(store, index, 0, settings())
    other = index_of(source(write_records(tmp_path / "b.jsonl", [conversation(i) for i in range(99)])))
    with pytest.raises(CorruptObject, match="page 6 holds 4 records, not 3"):
        read_all(other, form)


def test_two_publishers_at_once_end_with_one_form(index: DatasetIndex, store: ObjectStore) -> None:
    start = Barrier(2)

    def publish(_: int) -> TokenForm:
        start.wait(20)
        return publish_source(store, index, 0, settings())

    with ThreadPoolExecutor(2) as pool:
        forms = list(pool.map(publish, range(2)))
    assert forms[0].id == forms[1].id
    keys = {info.key for info in store.list()}
    assert keys == {
        f"{forms[0].index.key}/index.json",
        *map(forms[0].index.chunk_key, range(len(forms[0].index.sizes))),
    }


def test_an_index_that_came_first_is_the_one_that_counts(index: DatasetIndex, store: ObjectStore) -> None:
    form = publish_source(store, index, 0, settings())
    first = form.index.model_copy(update={"made_of": dict(reversed(form.index.made_of.items()))})
    replace(store, f"{form.index.key}/index.json", lambda _: first.model_dump_json().encode())
    again = publish_source(store, index, 0, settings())
    assert again.index == first
    assert again.id != form.id


def test_what_a_killed_publisher_left_is_used_where_it_is_whole(
    index: DatasetIndex, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = publish_source(store, index, 0, settings())
    chunks = [whole.index.chunk_key(i) for i in range(len(whole.index.sizes))]
    store.delete([f"{whole.index.key}/index.json", chunks[-1]])
    replace(store, chunks[0], flip(40))
    untouched = {info.key: info.version for info in store.list() if info.key != chunks[0]}
    assert find_form(store, whole.index.key) is None
    again = publish_source(store, index, 0, settings())
    assert again == whole
    assert read_all(index, again) > 0
    assert untouched.items() <= {info.key: info.version for info in store.list()}.items()


def test_a_form_elsewhere_is_found_by_what_points_to_it(
    index: DatasetIndex, store: ObjectStore, tmp_path: Path
) -> None:
    form = publish_source(store, index, 0, settings())
    home = open_store(f"file://{tmp_path}/tokens")
    point_to(home, form)
    point_to(home, form)
    found = find_form(home, form.index.key)
    assert found is not None
    assert (found.id, found.index, found.store.uri) == (form.id, form.index, store.uri)
    assert read_all(index, found) > 0
    store.delete(info.key for info in list(store.list()))
    assert find_form(home, form.index.key) is None
    again = publish_source(home, index, 0, settings())
    assert (again.id, again.store.uri) == (form.id, home.uri)
    assert find_form(home, form.index.key) == again


def test_a_form_belongs_to_what_its_tokens_depend_on(index: DatasetIndex, tmp_path: Path) -> None:
    def key(*, tokenizer: str = "t", of: DatasetIndex = index, **values: Any) -> str:
        return form_key(form_facts(of, 0, settings(**values), tokenizer))

    (tmp_path / "moved").mkdir()
    moved = index_of(source(write_records(tmp_path / "moved/b.jsonl", [conversation(i) for i in range(100)]), weight=3))
    longer = index_of(source(write_records(tmp_path / "c.jsonl", [conversation(i) for i in range(101)])))
    same = [key(), key(seed=7), key(global_batch_size=4), key(max_steps=3), key(of=moved)]
    assert len(set(same)) == 1
    others = [
        key(tokenizer="u"),
        key(max_length=95),
        key(overlong=Overlong.SPLIT),
        key(train_prompts=True),
        key(of=longer),
    ]
    assert len({*same, *others}) == 6


def test_the_cache_gives_up_what_is_used_last() -> None:
    cache = PageCache(30)
    for number, next_use in ((0, 5), (1, 9), (2, 7), (3, 6)):
        cache.put(("form", number), bytes(10), next_use)
    assert cache.size == 30
    assert [number for number in range(4) if cache.get(("form", number), 20)] == [0, 2, 3]
    cache.put(("form", 4), bytes(10), 20)
    assert cache.get(("form", 4), 21) is None
    cache.put(("form", 5), bytes(31), 1)
    assert cache.size == 30
