from __future__ import annotations

import gzip
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.data import (
    DatasetIndex,
    IndexProgress,
    build_index,
    cached_index,
    list_sources,
    listing_digest,
)
from finetune_trainer.data.order import SequentialOrder
from finetune_trainer.data.reader import RecordReader
from finetune_trainer.errors import DataError
from finetune_trainer.spec import Format
from finetune_trainer.store import open_store
from small_data import conversation, index_of, source, write_records

SUFFIXES = ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"]


def read_all(index: DatasetIndex) -> list[tuple[str, Any]]:
    """Name and content of every record, in order."""
    order = SequentialOrder(index.table)
    with RecordReader(index) as reader:
        records = [record for block in order.blocks() for record in reader.read(block)]
    return [
        (r.id.rsplit("/", 1)[1], json.loads(r.raw.decode("utf-8-sig")) if isinstance(r.raw, bytes) else r.raw)
        for r in records
    ]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_record_is_found_and_numbered_from_1(tmp_path: Path, suffix: str) -> None:
    records = [conversation(i) for i in range(700)]
    write_records(tmp_path / f"a.{suffix}", records[:600], row_group_size=300)
    write_records(tmp_path / f"b.{suffix}", records[600:])
    index = index_of(source(tmp_path / f"*.{suffix}"))
    assert index.records == 700
    names = [f"a.{suffix}#{i + 1}" for i in range(600)] + [f"b.{suffix}#{i + 1}" for i in range(100)]
    assert read_all(index) == list(zip(names, records, strict=True))
    assert DatasetIndex.model_validate_json(index.model_dump_json()) == index


def test_blank_lines_a_byte_order_mark_and_a_missing_last_newline_are_no_records(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + b'\n{"text": "a"}\r\n \t \n\n{"text": "b"}\n\n\n{"text": "c"}'
    (tmp_path / "a.jsonl").write_bytes(content)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(content + b"\n\n"))
    index = index_of(source(tmp_path / "*.jsonl*"))
    assert [record["text"] for _, record in read_all(index)] == list("abcabc")


@pytest.mark.parametrize("lengths", [[10, 2_000_000, 10, 10], [600_000] * 5, [1] * 1000])
def test_chunks_are_bounded_but_hold_at_least_one_record(tmp_path: Path, lengths: list[int]) -> None:
    write_records(tmp_path / "a.jsonl", [{"text": "x" * length} for length in lengths])
    write_records(tmp_path / "b.jsonl.zst", [{"text": "x" * length} for length in lengths])
    index = index_of(source(tmp_path / "*"))
    for file in index.sources[0].files:
        assert sum(file.records) == len(lengths)
        assert max(file.records) <= 256
        assert all(size <= 1 << 20 or records == 1 for size, records in zip(file.sizes, file.records, strict=True))
    assert sum(index.sources[0].files[0].sizes) == index.sources[0].files[0].size
    assert [len(record["text"]) for _, record in read_all(index)] == lengths * 2


def test_large_row_groups_are_cut_into_chunks_of_one_segment(tmp_path: Path) -> None:
    write_records(tmp_path / "a.parquet", [{"text": str(i)} for i in range(1100)], row_group_size=1000)
    file = index_of(source(tmp_path / "a.parquet")).sources[0].files[0]
    assert tuple(file.records) == (256, 256, 256, 232, 100)
    assert file.row_groups == (4, 1)


def test_only_the_columns_of_the_format_are_read_from_parquet(tmp_path: Path) -> None:
    rows = [{"text": "a", "embedding": [1.0] * 8, "body": "b"}]
    write_records(tmp_path / "a.parquet", rows)
    index = index_of(source(tmp_path / "a.parquet", format_=Format.TEXT, text="body"))
    assert read_all(index)[0][1] == {"body": "b"}


@pytest.mark.parametrize(
    ("record", "format_"),
    [
        (conversation(1), Format.MESSAGES),
        ({"conversations": []}, Format.SHARE_GPT),
        ({"instruction": "", "output": ""}, Format.ALPACA),
        ({"prompt": "", "completion": ""}, Format.PROMPT_COMPLETION),
        ({"text": ""}, Format.TEXT),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_the_format_is_found_from_the_first_records(
    tmp_path: Path, suffix: str, record: dict[str, Any], format_: Format
) -> None:
    write_records(tmp_path / f"a.{suffix}", [record] * 3)
    assert index_of(source(tmp_path / f"a.{suffix}")).sources[0].format is format_


def test_records_that_cannot_be_parsed_do_not_hide_the_format(tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl", ["{broken", b"\xff\xfe", {"text": "a"}])
    assert index_of(source(tmp_path / "a.jsonl")).sources[0].format is Format.TEXT


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_prompt_and_completion_of_messages_count_as_messages(tmp_path: Path, suffix: str) -> None:
    question, answer = conversation(1)["messages"]
    write_records(tmp_path / f"text.{suffix}", [{"prompt": "a", "completion": "b"}])
    write_records(tmp_path / f"chat.{suffix}", [{"ask": [question], "completion": [answer]}])
    text, chat = source(tmp_path / f"text.{suffix}"), source(tmp_path / f"chat.{suffix}", prompt="ask")
    assert index_of(text).rendered_formats == {Format.PROMPT_COMPLETION}
    assert index_of(chat).rendered_formats == {Format.MESSAGES}
    assert index_of(text, chat).rendered_formats == {Format.PROMPT_COMPLETION, Format.MESSAGES}
    assert {found.format for found in index_of(text, chat).sources} == {Format.PROMPT_COMPLETION}


def test_the_id_is_that_of_the_content_wherever_it_lies(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    write_records(tmp_path / "one" / "a.jsonl", [{"text": "a"}, {"text": "b"}])
    shutil.copy(tmp_path / "one" / "a.jsonl", tmp_path / "two" / "z.jsonl")
    one, two = (index_of(source(tmp_path / folder / "*.jsonl")) for folder in ("one", "two"))
    assert one.id == two.id
    write_records(tmp_path / "two" / "z.jsonl", [{"text": "a"}, {"text": "c"}])
    assert index_of(source(tmp_path / "two" / "*.jsonl")).id != one.id
    assert index_of(source(tmp_path / "one" / "*.jsonl", weight=2)).id != one.id
    assert index_of(source(tmp_path / "one" / "*.jsonl", text="text")).id != one.id


def test_an_index_is_read_from_the_cache_until_a_file_changes(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    path = write_records(tmp_path / "data" / "a.jsonl", [{"text": "a"}])
    cache = open_store(f"file://{tmp_path}/cache")
    seen: list[IndexProgress] = []

    def passes() -> int:
        return sum(progress.files == progress.total_files for progress in seen)

    for _ in range(2):
        index = cached_index(list_sources([source(path)], "spec.data.train"), cache, seen.append)
        assert index.records == 1
    assert passes() == 1
    write_records(path, [{"text": "a"}, {"text": "b"}])
    assert cached_index(list_sources([source(path)], "spec.data.train"), cache, seen.append).records == 2
    assert passes() == 2
    for info in list(cache.list()):
        cache.put(info.key, b'{"version": 0}')
    assert cached_index(list_sources([source(path)], "spec.data.train"), cache, seen.append).records == 2
    assert passes() == 3


@pytest.mark.parametrize("column", [b'"xAgA="', b'"HAgA*"', b'"HAg=="', b"[-2]", b"2"])
def test_a_cached_index_with_a_column_that_cannot_be_read_is_made_anew(tmp_path: Path, column: bytes) -> None:
    path = write_records(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "b"}])
    listed, cache = list_sources([source(path)], "spec.data.train"), open_store(f"file://{tmp_path}/cache")
    index = cached_index(listed, cache)
    key = next(iter(cache.list())).key
    whole = cache.get(key)
    assert whole.count(b'"HAgA="') == 1  # two records
    cache.put(key, whole.replace(b'"HAgA="', column))
    assert cached_index(listed, cache) == index
    assert cache.get(key) == whole


def test_a_cached_index_holds_its_digests_and_one_written_with_plain_numbers_is_read(tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl", [{"text": "a" * (i % 7 * 10**5 + 1)} for i in range(300)])
    listed = list_sources([source(tmp_path / "a.jsonl")], "spec.data.train")
    cache = open_store(f"file://{tmp_path}/cache")
    built, fresh = index_of(source(tmp_path / "a.jsonl")), cached_index(listed, cache)
    assert built.digests is None
    assert fresh.digests is not None
    assert (fresh.id, fresh.content_digest(0), fresh.sources) == (built.id, built.content_digest(0), built.sources)
    key = next(iter(cache.list())).key
    plain = built.model_dump(exclude={"digests"})
    for file in plain["sources"][0]["files"]:
        file |= {name: list(file[name]) for name in ("records", "sizes", "crc64")}
    cache.put(key, json.dumps(plain).encode())
    assert cached_index(listed, cache) == fresh
    assert DatasetIndex.model_validate_json(cache.get(key)).digests == fresh.digests


def test_the_cache_key_depends_on_how_the_files_are_read(tmp_path: Path) -> None:
    path = write_records(tmp_path / "a.jsonl", [{"text": "a"}])
    digests = {
        listing_digest(list_sources([given], "spec.data.train"))
        for given in (
            source(path),
            source(path, weight=2),
            source(path, format_=Format.TEXT),
            source(path, text="text"),
        )
    }
    assert len(digests) == 4


def test_progress_tells_files_bytes_and_records(tmp_path: Path) -> None:
    for name in "abc":
        write_records(tmp_path / f"{name}.jsonl", [{"text": name}] * 10)
    seen: list[IndexProgress] = []
    build_index(list_sources([source(tmp_path / "*.jsonl")], "spec.data.train"), seen.append)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert list(dict.fromkeys(progress.files for progress in seen)) == [0, 1, 2, 3]
    assert seen[-1] == IndexProgress(files=3, total_files=3, size=size, total_size=size, records=30)


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
def test_progress_moves_within_a_file_up_to_its_end(tmp_path: Path, suffix: str) -> None:
    noise = random.Random(1)
    path = write_records(tmp_path / f"a.{suffix}", [{"text": noise.randbytes(10_000).hex()} for _ in range(100)])
    seen: list[IndexProgress] = []
    build_index(list_sources([source(path)], "spec.data.train"), seen.append)
    places = [progress.size for progress in seen]
    assert places == sorted(places)
    assert places[-1] == path.stat().st_size
    if suffix != "parquet":  # of which only the footer is read
        assert len({place for place in places if place < path.stat().st_size}) >= 3


def test_a_report_tells_what_was_found(tmp_path: Path) -> None:
    path = write_records(tmp_path / "a.jsonl", [{"text": "a"}] * 3)
    assert index_of(source(path, weight=0.5)).report() == [
        {
            "uri": f"file://{path}",
            "format": "Text",
            "files": 1,
            "bytes": path.stat().st_size,
            "records": 3,
            "weight": 0.5,
        }
    ]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_changes_after_it_was_indexed_is_refused(tmp_path: Path, suffix: str) -> None:
    path = write_records(tmp_path / f"a.{suffix}", [{"text": "a"}, {"text": "b"}])
    index = index_of(source(path))
    write_records(path, [{"text": "a"}, {"text": "changed"}])
    with pytest.raises(DataError, match=rf"a\.{suffix} changed since it was indexed"):
        read_all(index)
