"""A store behind TLS with its own authority; settings that lead nowhere are found out before any worker starts."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faults import FOREVER
from faulty_http import reply
from faulty_proxy import faulty_proxy
from finetune_trainer.errors import StorageError
from finetune_trainer.preflight import preflight
from finetune_trainer.spec import FineTuneJob, parse_job
from finetune_trainer.store import ObjectExists, StorageRefused, StoreUnreachable, open_store, probe
from issuer import Issuer
from s3_bucket import Bucket
from s3_server import S3Server, free_port, serving
from small_job import make_small_job
from tls_files import authority

AT_ONCE = 40
"""Seconds for what is not tried again; the tries that these tests allow would take twice as long and more."""

ROLE = "arn:aws:iam::000000000000:role/team-a"


@pytest.fixture
def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A server with TLS, a bucket, and the environment that a pod gets of a runtime with `caConfigMap`."""
    files = authority(tmp_path, "right")
    with serving(tmp_path / "s3", certificate=(files["tls.crt"], files["tls.key"])) as server:
        server.add_user("tenant", "secured")
        for name, value in server.environment().items():
            monkeypatch.setenv(name.replace("ENDPOINT_URL", "ENDPOINT_URL_S3"), value)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(files["ca.crt"]))
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "20")
        yield server


def manifest(tmp_path: Path, bucket: str) -> FineTuneJob:
    """A job all of whose addresses lie in one bucket."""
    job = make_small_job(tmp_path)
    uri = f"s3://{bucket}"
    sources = {"train": [{"uri": f"{uri}/a.jsonl"}], "eval": [{"name": "held-out", "uri": f"{uri}/b.jsonl"}]}
    parts: dict[str, Any] = {"model": {"uri": f"{uri}/model"}, "data": sources, "output": {"uri": f"{uri}/out"}}
    found = job.manifest(**parts)
    found["spec"]["checkpoint"]["uri"] = f"{uri}/runs"
    return parse_job(json.dumps(found))


def test_a_store_whose_authority_is_given_is_used_over_tls(secure: S3Server) -> None:
    assert secure.endpoint.startswith("https://")
    probe(open_store("s3://secured/runs"))


def test_a_large_object_that_exists_is_said_to_exist_though_the_answer_comes_before_its_body(
    secure: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    store = open_store("s3://secured/runs")
    data = os.urandom(8 * 2**20)
    store.create("a", data)
    with pytest.raises(ObjectExists):
        store.create("a", data[::-1])
    assert store.get("a") == data


def test_the_authority_holds_for_the_sts_too(secure: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    issuer = Issuer()
    secure.trust(issuer.name, "sts.test", issuer.jwks)
    secure.add_role(ROLE, "tenant", ["system:serviceaccount:team-a:*"])
    (tmp_path / "token").write_text(issuer.token("system:serviceaccount:team-a:default", "sts.test"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", secure.endpoint)
    monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    probe(open_store("s3://secured/runs"))


def test_a_wrong_authority_is_found_at_once_and_for_every_field(
    secure: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority(tmp_path, "wrong")["ca.crt"]))
    begun = time.monotonic()
    with pytest.raises(StorageRefused) as failed:
        preflight(manifest(tmp_path, "secured"))
    assert time.monotonic() - begun < AT_ONCE
    assert failed.value.exit_code == 14
    told = str(failed.value).splitlines()
    assert [line.partition(": ")[0] for line in told] == [
        "spec.checkpoint.uri",
        "spec.output.uri",
        "spec.data.train[0].uri",
        "spec.data.eval[0].uri",
        "spec.model.uri",
    ]
    assert all(f"certificate of {secure.endpoint} is not trusted: set AWS_CA_BUNDLE" in line for line in told)
    assert all("storage.caConfigMap of the runtime" in line for line in told)


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_an_authority_that_cannot_be_read_is_named_at_once(
    secure: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(path))
    begun = time.monotonic()
    with pytest.raises(StorageRefused, match=rf"not trusted: set AWS_CA_BUNDLE \(now {path}\)"):
        probe(open_store("s3://secured/runs"))
    assert time.monotonic() - begun < AT_ONCE


def test_https_to_a_server_without_it_is_found_at_once(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.server.endpoint.replace("http:", "https:"))
    with pytest.raises(StorageRefused, match=r"certificate of https://.* correct AWS_ENDPOINT_URL"):
        probe(open_store(f"{bucket.uri}/runs"))


def test_an_endpoint_that_nobody_serves_ends_the_checks_with_the_first(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", nobody)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    with pytest.raises(StoreUnreachable, match=rf"^spec\.checkpoint\.uri: .*{nobody} cannot be reached") as failed:
        preflight(manifest(tmp_path, bucket.name))
    assert len(str(failed.value).splitlines()) == 1
    assert (failed.value.exit_code, failed.value.retryable) == (14, True)


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (404, b"<html>not found</html>", "answers with HTTP 404 and no S3 error, as no S3 store does"),
        (403, b"<html>log in</html>", "answers with HTTP 403 and no S3 error, as no S3 store does"),
        (405, b"", "answers with HTTP 405 and no S3 error, as no S3 store does"),
        (200, b"", "answers without an ETag, as no S3 store does"),
    ],
)
def test_an_endpoint_that_is_no_store_is_named(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, told: str
) -> None:
    with faulty_proxy(bucket.server.port) as proxy:
        for method in ("GET", "HEAD", "PUT", "POST"):
            proxy.inject(method, reply(status, body), times=FOREVER)
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        with pytest.raises(StorageRefused) as failed:
            preflight(manifest(tmp_path, bucket.name))
    (first, *_) = str(failed.value).splitlines()
    assert first.startswith("spec.checkpoint.uri: cannot ")
    assert f"{proxy.endpoint} {told}: check AWS_ENDPOINT_URL" in first


@pytest.mark.slow
def test_an_endpoint_that_nobody_serves_is_given_up_within_a_minute(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    begun = time.monotonic()
    with pytest.raises(StorageError):
        preflight(manifest(tmp_path, bucket.name))
    assert time.monotonic() - begun < 60


def test_a_bucket_that_ignores_conditions_is_refused(tmp_path: Path, bucket: Bucket) -> None:
    bucket.server.ignore_conditions(bucket.name)
    with pytest.raises(StorageRefused) as failed:
        preflight(manifest(tmp_path, bucket.name))
    told = str(failed.value).splitlines()
    assert told[0].startswith(f"spec.checkpoint.uri: s3://{bucket.name}/runs let 9 of 9 writers create one object: ")
    assert "use a store with conditional writes" in told[0]
