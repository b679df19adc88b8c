"""One store of each kind, a run's log in it, and a way to S3 that breaks on demand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from faulty_proxy import FaultyProxy, faulty_proxy
from finetune_trainer.store import ObjectStore, RunLog, open_store
from s3_bucket import Bucket
from s3_server import S3Server
from web_tenant import Tenant, web_tenant


@pytest.fixture(params=["file", "s3"])
def store_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty store below a folder or a bucket; the S3 server is real."""
    if request.param == "file":
        return f"file://{tmp_path / 'store' / 'runs'}"
    return f"{request.getfixturevalue('bucket').uri}/runs"


@pytest.fixture
def store(store_uri: str) -> ObjectStore:
    """An empty store of each kind."""
    return open_store(store_uri)


@pytest.fixture
def proxy(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """The way from this process to the bucket; four attempts per request keep the waits of hopeless tests short."""
    with faulty_proxy(bucket.server.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "4")
        yield proxy


@pytest.fixture
def broken_store(bucket: Bucket, proxy: FaultyProxy) -> ObjectStore:
    """The bucket behind the proxy."""
    return open_store(f"{bucket.uri}/runs")


@pytest.fixture
def tenant(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tenant]:
    """A process whose credentials come by web identity."""
    with web_tenant(s3, tmp_path, monkeypatch) as tenant:
        yield tenant


@pytest.fixture
def log(store: ObjectStore) -> RunLog:
    """The empty log of a run, with a clock that stands still."""
    return RunLog(store, "team.job", clock=lambda: 1_800_000_000.25)
