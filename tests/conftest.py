"""What every test folder shares: no way out to a real account, no silent skip in CI, a real S3 server, a bucket."""

from __future__ import annotations

import os
import uuid
from collections.abc import Generator, Iterator

import boto3
import pytest
from botocore.config import Config

from s3_bucket import Bucket
from s3_faults.server import FaultyS3, serving_faults
from s3_server import REGION, S3Server, serving
from turns import turn

# Before any test module is imported: nothing here may find a developer's account or tell anybody about the run.
for _name in [name for name in os.environ if name.startswith("AWS_")]:
    del os.environ[_name]
os.environ |= {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
os.environ |= {"AWS_EC2_METADATA_DISABLED": "true", "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outside of what counts a test's time
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let tests marked `alone` have the machine to themselves, where `-n` spreads the others over processes."""
    if not hasattr(item.config, "workerinput"):  # which xdist gives its processes
        return (yield)
    with turn(item.config.cache.mkdir("turns"), alone=item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a test that skips itself fail in CI: what cannot run there proves nothing and has to say so."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"{report.nodeid} cannot run here, and CI allows no skip: {reason}"
    return report


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server (versitygw) over a temporary folder, shared by the session."""
    with serving(tmp_path_factory.mktemp("s3") / "data") as server:
        yield server


@pytest.fixture(scope="session")
def faulty_server() -> Iterator[FaultyS3]:
    """Our own S3 server, which breaks as a script says, shared by the session."""
    with serving_faults() as server:
        yield server


@pytest.fixture
def faulty_s3(faulty_server: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """The same; this process's AWS environment points at it until the test ends, and so long its faults last."""
    for name, value in faulty_server.environment().items():
        monkeypatch.setenv(name, value)
    yield faulty_server
    faulty_server.restart()
    faulty_server.seen.clear()
    faulty_server.buckets.clear()


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A fresh bucket; this process's AWS environment points at the server until the test ends."""
    env = s3.environment()
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    session = boto3.Session(s3.access_key, s3.secret_key, region_name=REGION)
    client = session.client("s3", endpoint_url=s3.endpoint, config=Config(signature_version="s3v4"))
    name = f"test-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    return Bucket(name, env, client, s3)
