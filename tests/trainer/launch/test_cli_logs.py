"""`finetune logs`: what attempts on a cluster wrote, from the store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_trainer.spec import logs_uri, parse_job
from finetune_trainer.store import open_store
from finetune_trainer.store.streams import LAUNCHER, Stream, append
from launch_job import manifest
from s3_bucket import Bucket

STARTS = ("20261127T121500Z-00000001", "20261127T121530Z-00000000")


def finetune(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from finetune_trainer.cli.app import main; main()", "logs", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def job(bucket: Bucket, tmp_path: Path) -> Path:
    """A manifest as `kubectl get -o yaml` shows it, of a run with two attempts in a bucket."""
    document = manifest(checkpoint={"uri": f"{bucket.uri}/ckpt", "everySteps": 1})
    document["metadata"] |= {"uid": "0e1b6a52-0000-4000-8000-000000000001", "generation": 1, "managedFields": []}
    document["status"] = {"phase": "Failed"}
    path = tmp_path / "job.yaml"
    path.write_text(json.dumps(document))
    store = open_store(logs_uri(parse_job(path.read_text())))
    append(store, Stream(1, "rank-0", STARTS[0]), 0, b"of the first attempt\n")
    append(store, Stream(2, LAUNCHER, STARTS[0]), 0, b"of the launcher\n")
    rank = Stream(2, "rank-0", STARTS[0])
    text = "before ü after\n".encode()
    append(store, rank, append(store, rank, 0, text[:8]), text[8:])  # in the middle of a character
    append(store, Stream(2, "rank-0", STARTS[1]), 0, b"again\n")
    append(store, Stream(2, "rank-1", STARTS[0]), 0, b"of rank 1\n")
    return path


ALL = """==> attempt 2, launcher, from 2026-11-27 12:15:00 UTC <==
of the launcher

==> attempt 2, rank-0, from 2026-11-27 12:15:00 UTC <==
before ü after

==> attempt 2, rank-0, from 2026-11-27 12:15:30 UTC <==
again

==> attempt 2, rank-1, from 2026-11-27 12:15:00 UTC <==
of rank 1

"""


def test_the_newest_attempt_is_shown_launcher_first(job: Path) -> None:
    assert finetune(job).stdout == ALL


def test_one_rank_of_one_attempt_is_shown(job: Path) -> None:
    assert finetune(job, "--attempt", 1, "--rank", 0).stdout.splitlines()[1:] == ["of the first attempt", ""]
    assert finetune(job, "--rank", 1).stdout.splitlines()[1:] == ["of rank 1", ""]


def test_the_address_in_the_status_is_enough(job: Path) -> None:
    logs = logs_uri(parse_job(job.read_text()))
    assert finetune(f"{logs}/2").stdout == ALL
    assert finetune(f"{logs}/").stdout == ALL
    assert finetune(f"{logs}/1").stdout.splitlines()[1] == "of the first attempt"


def test_what_is_not_there_is_said_with_what_to_write(job: Path, bucket: Bucket) -> None:
    ran = finetune(job, "--attempt", 3, "--rank", 7)
    assert (ran.returncode, ran.stdout) == (14, "")
    assert f"no logs of rank 7 in attempt 3 in {bucket.uri}/ckpt/0e1b6a52" in ran.stderr
    assert "status.attempts[].logs" in ran.stderr
    ran = finetune(f"{bucket.uri}/ckpt")
    assert ran.returncode == 2
    assert "is no folder of logs" in ran.stderr


def test_a_reader_may_stop_reading(job: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", "from finetune_trainer.cli.app import main; main()", "logs", str(job)]
    ran = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (ran.returncode, ran.stderr) == (0, b"")
