"""A run whose data lies in S3 keeps it on its node until it has trained."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_trainer.errors import Stopped
from loop_runner import Recorder, Train
from s3_faults.requests import Operation
from s3_faults.server import FaultyS3
from small_job import SmallJob


def test_a_start_after_a_stop_reads_from_the_disk_and_the_end_leaves_nothing_there(
    train: Train, small_job: SmallJob, faulty_s3: FaultyS3
) -> None:
    bucket = faulty_s3.make_bucket()
    for name in ("train.jsonl", "eval.jsonl"):
        faulty_s3.client().upload_file(str(small_job.folder / name), bucket, name)
    data: dict[str, Any] = {
        "train": [{"uri": f"s3://{bucket}/train.jsonl"}],
        "eval": [{"name": "held-out", "uri": f"s3://{bucket}/eval.jsonl"}],
    }
    rank = {"workers": {"replicas": 1, "gpusPerReplica": 0}}
    train(small_job.write("without", data=data, **rank))
    job = small_job.write("kept", data=data, **rank)
    folder = small_job.folder / "work/kept/data"
    with pytest.raises(Stopped):
        train(job, Recorder(stop_after=7), data_cache_bytes=1_000_000)
    assert any(path.name.startswith("records-") for path in folder.rglob("*"))
    faulty_s3.seen.clear()
    train(job, data_cache_bytes=1_000_000)
    assert faulty_s3.count(Operation.GET) == 0
    assert faulty_s3.count(Operation.HEAD) > 0  # they are still what was indexed
    assert small_job.metrics("kept") == small_job.metrics("without")
    assert not folder.exists()
