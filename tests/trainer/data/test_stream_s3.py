"""The stream over a real S3 server."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from finetune_trainer.data import EvalSet, TrainStream, cached_index, list_sources
from finetune_trainer.errors import DataError, StorageError
from finetune_trainer.spec import TrainSource
from finetune_trainer.store import open_store
from s3_bucket import Bucket
from small_data import conversation, index_of, make_tokenizer, settings, source, write_records

FILES = ["a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.parquet"]


def upload(bucket: Bucket, folder: Path, prefix: str, count: int = 600) -> list[TrainSource]:
    """The same conversations in every container; one source for each."""
    for name in FILES:
        path = write_records(folder / name, [conversation(i) for i in range(count)], row_group_size=250)
        bucket.client.upload_file(str(path), bucket.name, f"{prefix}/{name}")
    return [source(f"{bucket.uri}/{prefix}/{name[0]}.*") for name in FILES]


def test_every_record_arrives_from_s3_as_it_does_from_disk(bucket: Bucket, tmp_path: Path) -> None:
    sources = upload(bucket, tmp_path, "data/train")
    listed = list_sources(sources, "spec.data.train")
    remote = cached_index(listed, open_store(f"{bucket.uri}/cache"))
    assert cached_index(listed, open_store(f"{bucket.uri}/cache")) == remote
    local = index_of(*(source(tmp_path / name) for name in FILES))
    assert remote.id == local.id
    batches = list(TrainStream(remote, settings(), make_tokenizer()).batches())
    seen = Counter(record for batch in batches for record in batch.samples())
    assert len(seen) == seen.total() == 2400
    assert f"{bucket.uri}/data/train/d.parquet#600" in seen
    for ours, theirs in zip(batches, TrainStream(local, settings(), make_tokenizer()).batches(), strict=True):
        assert [row.input_ids.tolist() for row in ours.rows] == [row.input_ids.tolist() for row in theirs.rows]
        assert ours.state == theirs.state
    rows = [row for rows in EvalSet("s3", remote, settings(), make_tokenizer()).micro_batches(4) for row in rows]
    assert sum(len(row.records) for row in rows) == 2400


def test_an_object_that_changes_under_the_run_is_refused(bucket: Bucket, tmp_path: Path) -> None:
    remote = index_of(*upload(bucket, tmp_path, "data", count=10))
    write_records(tmp_path / "a.jsonl", [conversation(i + 1) for i in range(10)])
    bucket.client.upload_file(str(tmp_path / "a.jsonl"), bucket.name, "data/a.jsonl")
    with pytest.raises(DataError, match=f"{bucket.uri}/data/a.jsonl changed since it was indexed"):
        next(TrainStream(remote, settings(), make_tokenizer()).batches())


def test_a_glob_without_a_match_and_a_missing_bucket_are_told_apart(bucket: Bucket) -> None:
    bucket.client.put_object(Bucket=bucket.name, Key="data/a.json", Body=b"{}")
    with pytest.raises(DataError, match=r"spec\.data\.train\[0\]\.uri: no file matches .* there are a\.json"):
        list_sources([source(f"{bucket.uri}/data/*.jsonl")], "spec.data.train")
    with pytest.raises(StorageError, match=r"^spec\.data\.train\[0\]\.uri: .*no-such-bucket-here' does not exist"):
        list_sources([source("s3://no-such-bucket-here/data/*.jsonl")], "spec.data.train")
