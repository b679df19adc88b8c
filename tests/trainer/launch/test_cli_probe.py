"""`finetune probe`: whether a store takes what commits need, as a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from finetune_trainer.store import open_store
from s3_bucket import Bucket


def probe(uri: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from finetune_trainer.cli.app import main; main()", "probe", uri]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_store_that_takes_conditional_writes_passes_and_is_left_as_it_was(bucket: Bucket) -> None:
    done = probe(f"{bucket.uri}/runs")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{bucket.uri}/runs: takes conditional writes, as commits need them\n"
    assert list(open_store(bucket.uri).list("")) == []


def test_a_bucket_that_is_not_there_ends_with_the_code_of_storage(bucket: Bucket) -> None:
    done = probe("s3://no-such-bucket-here/runs")
    assert (done.returncode, done.stdout) == (14, "")
    assert "the bucket 'no-such-bucket-here' does not exist" in done.stderr


def test_a_wrong_secret_is_told_and_not_shown(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret-of-this-server")
    done = probe(bucket.uri)
    assert done.returncode == 14
    assert "secret key does not fit" in done.stderr
    assert "not-the-secret" not in done.stderr


def test_an_address_that_is_none_is_refused_with_what_to_write() -> None:
    done = probe("bucket/runs")
    assert done.returncode == 14
    assert "write s3://<bucket>/<prefix>" in done.stderr
