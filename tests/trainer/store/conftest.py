"""One store of each kind, and a run's log in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_trainer.store import ObjectStore, RunLog, open_store


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
def log(store: ObjectStore) -> RunLog:
    """The empty log of a run, with a clock that stands still."""
    return RunLog(store, "team.job", clock=lambda: 1_800_000_000.25)
