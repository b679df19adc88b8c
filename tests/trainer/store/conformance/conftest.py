"""The stores that keep the same promises: a folder, S3 on two servers, and S3 by boto3's own way of sending."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_trainer.store import s3_client


@pytest.fixture(params=["file", "s3", "faulty s3", "boto3"])
def store_uri(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty store. `s3` is versitygw, `faulty s3` our own server without a fault; `boto3` the former
    with signed bodies, which are read like any file."""
    if request.param == "file":
        return f"file://{tmp_path / 'store' / 'runs'}"
    if request.param == "faulty s3":
        return f"s3://{request.getfixturevalue('faulty_s3').make_bucket()}/runs"
    if request.param == "boto3":
        profile = tmp_path / "aws"
        profile.write_text("[default]\ns3 =\n    payload_signing_enabled = true\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(profile))
        monkeypatch.setattr(s3_client, "send_uncopied", lambda **_: None)
    return f"{request.getfixturevalue('bucket').uri}/runs"
