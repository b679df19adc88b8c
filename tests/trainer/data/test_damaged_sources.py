"""Records that changed though their store does not say so are not trained on: a flipped bit can be a good record."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet
import pytest

from faulty_http import change_answer, flip
from finetune_trainer.data import DatasetIndex, EvalSet, TrainStream, cached_index, list_sources
from finetune_trainer.errors import DataError
from finetune_trainer.store import CorruptObject, crc64nvme, open_store
from s3_faults.requests import Operation
from s3_faults.server import FaultyS3
from small_data import conversation, index_of, make_tokenizer, sentence, settings, source, write_records

LINES = ["jsonl", "jsonl.gz", "jsonl.zst"]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_trainer.data.scan.CHUNK_RECORDS", 16)


class Source:
    """A file of conversations in a bucket, and the same with one word of one record exchanged."""

    def __init__(self, server: FaultyS3, folder: Path, suffix: str, algorithm: str = "CRC64NVME") -> None:
        (folder / "other").mkdir()
        records = [conversation(number) for number in range(60)]
        path = write_records(folder / f"a.{suffix}", records)
        records[20]["messages"][1]["content"] = records[20]["messages"][1]["content"].replace("20:", "21:")
        self.changed = write_records(folder / "other" / f"a.{suffix}", records)
        self.other = self.changed.read_bytes()
        self.key = path.name
        self.bucket = server.make_bucket()
        self.server = server
        client = server.client()
        client.put_object(Bucket=self.bucket, Key=self.key, Body=path.read_bytes(), ChecksumAlgorithm=algorithm)
        self.local = path

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    def rot(self) -> None:
        self.server.bucket(self.bucket).damage(self.key, self.other)


def tokens(index: DatasetIndex) -> list[list[int]]:
    batches = TrainStream(index, settings(), make_tokenizer()).batches()
    return [row.input_ids.tolist() for batch in batches for row in batch.rows]


@pytest.mark.parametrize("suffix", LINES)
def test_a_record_that_changed_behind_its_store_is_named(faulty_s3: FaultyS3, tmp_path: Path, suffix: str) -> None:
    made = Source(faulty_s3, tmp_path, suffix)
    index = index_of(source(made.uri))
    made.rot()
    with pytest.raises(CorruptObject, match=f"{made.uri} is damaged: its records 17 to 32, bytes .* CRC64NVME"):
        tokens(index)
    with pytest.raises(CorruptObject, match="records 17 to 32"):
        list(EvalSet("held-out", index, settings(), make_tokenizer()).micro_batches(4))


def test_a_parquet_page_that_is_not_what_its_checksum_says_is_refused(faulty_s3: FaultyS3, tmp_path: Path) -> None:
    table = pyarrow.table({"text": [sentence(number, 20) for number in range(60)]})
    options = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", **options)
    data, name = (tmp_path / "a.parquet").read_bytes(), faulty_s3.make_bucket()
    faulty_s3.client().put_object(Bucket=name, Key="a.parquet", Body=data)
    index = index_of(source(f"s3://{name}/a.parquet"))
    assert tokens(index)
    inside = data.index(b" learns ", len(data) // 2)
    faulty_s3.bucket(name).damage("a.parquet", data[:inside] + b" learnt " + data[inside + 8 :])
    with pytest.raises(DataError, match=f"s3://{name}/a.parquet cannot be read: .*CRC"):
        tokens(index)


@pytest.mark.parametrize("suffix", LINES)
def test_records_that_are_damaged_on_their_way_are_read_again(faulty_s3: FaultyS3, tmp_path: Path, suffix: str) -> None:
    made = Source(faulty_s3, tmp_path, suffix)
    index = index_of(source(made.uri))
    if suffix == "jsonl":
        faulty_s3.inject(change_answer(lambda data: data.replace(b"model", b"lodel")), Operation.GET, times=1)
    else:
        faulty_s3.inject(change_answer(lambda _: made.other), Operation.GET, times=1)
    assert tokens(index) == tokens(index_of(source(made.local)))


@pytest.mark.parametrize("suffix", LINES[1:])
def test_compressed_records_that_cannot_be_decoded_are_read_again(
    faulty_s3: FaultyS3, tmp_path: Path, suffix: str
) -> None:
    made = Source(faulty_s3, tmp_path, suffix)
    index = index_of(source(made.uri))
    faulty_s3.inject(change_answer(lambda data: flip(data, len(data) // 2)), Operation.GET)
    assert tokens(index) == tokens(index_of(source(made.local)))
    made.server.bucket(made.bucket).damage(made.key, flip(made.local.read_bytes(), 40))
    with pytest.raises((DataError, CorruptObject), match=f"{made.uri} "):
        tokens(index)


@pytest.mark.parametrize("suffix", LINES)
def test_a_file_that_is_not_what_its_store_keeps_is_not_indexed(
    faulty_s3: FaultyS3, tmp_path: Path, suffix: str
) -> None:
    made = Source(faulty_s3, tmp_path, suffix)
    made.rot()
    with pytest.raises(CorruptObject, match=f"{made.uri} .* CRC64NVME is {crc64nvme(made.other):016x}, not"):
        index_of(source(made.uri))


def test_a_file_that_is_damaged_on_its_way_is_indexed_from_a_second_read(faulty_s3: FaultyS3, tmp_path: Path) -> None:
    made = Source(faulty_s3, tmp_path, "jsonl")
    faulty_s3.inject(change_answer(lambda _: made.other), Operation.GET, skip=1)
    assert index_of(source(made.uri)).id == index_of(source(made.local)).id


def test_a_store_that_keeps_no_crc64nvme_is_believed(faulty_s3: FaultyS3, tmp_path: Path) -> None:
    made = Source(faulty_s3, tmp_path, "jsonl", algorithm="CRC32")
    made.rot()
    assert tokens(index_of(source(made.uri))) == tokens(index_of(source(made.changed)))


def test_a_kept_index_that_rots_is_made_again(faulty_s3: FaultyS3, tmp_path: Path) -> None:
    made = Source(faulty_s3, tmp_path, "jsonl")
    listed = list_sources([source(made.uri)], "spec.data.train")
    cache = open_store(f"s3://{made.bucket}/index")
    built = cached_index(listed, cache)
    (key,) = faulty_s3.keys_like(made.bucket, "index/*")
    bucket = faulty_s3.bucket(made.bucket)
    bucket.damage(key, bucket.get(key).data.replace(b'"weight":1.0', b'"weight":3.0'))
    assert cached_index(listed, cache) == built
    assert b'"weight":1.0' in bucket.get(key).data
