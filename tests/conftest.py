"""Fixtures that every test folder shares: a real S3 server and a bucket of one's own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import boto3
import pytest
from botocore.config import Config
from s3_bucket import Bucket
from s3_server import REGION, S3Server, serving


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server (versitygw) over a temporary folder, shared by the session."""
    with serving(tmp_path_factory.mktemp("s3") / "data") as server:
        yield server


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A fresh bucket; this process's AWS environment points at the server until the test ends."""
    env = s3.environment()
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    session = boto3.Session(s3.access_key, s3.secret_key, region_name=REGION)
    client = session.client("s3", endpoint_url=s3.endpoint, config=Config(signature_version="s3v4"))
    name = f"test-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    return Bucket(name, env, client, s3)
