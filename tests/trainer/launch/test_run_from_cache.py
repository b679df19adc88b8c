"""A whole run whose base model lies in the node's cache."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from faulty_proxy import faulty_proxy
from launch_job import rest, run_command
from s3_bucket import Bucket
from small_job import make_small_job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_the_second_run_on_a_node_trains_to_the_same_end_and_reads_no_weights(tmp_path: Path, bucket: Bucket) -> None:
    job = make_small_job(tmp_path)
    for path in (job.folder / "model").iterdir():
        bucket.client.upload_file(str(path), bucket.name, f"models/tiny/{path.name}")
    shared = {"FINETUNE_CACHE_DIR": str(tmp_path / "cache"), "FINETUNE_STATE_DIR": str(tmp_path / "state")}
    short = {"maxSteps": 4, "globalBatchSize": 4, "microBatchSize": 2}
    with faulty_proxy(bucket.server.port) as proxy:
        reads = []
        for name in ("first", "second"):
            manifest = job.write(name, model={"uri": f"{bucket.uri}/models/tiny"}, training=short)
            places = shared | {"AWS_ENDPOINT_URL": proxy.endpoint, "FINETUNE_WORKDIR": str(tmp_path / name)}
            with run_command(manifest, "--launcher", "torchrun", **os.environ | places) as process:
                events, told = rest(process)
            assert process.returncode == 0, (events, told)
            reads.append(proxy.count("GET", "model.safetensors"))
    assert reads == [1, 1]
    assert job.metrics("first") == job.metrics("second")
