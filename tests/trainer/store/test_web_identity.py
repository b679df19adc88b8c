"""Credentials by web identity: a token from a file, exchanged at a real STS, for one tenant's bucket and no other."""

from __future__ import annotations

import os

import pytest

from finetune_trainer.errors import StorageError
from finetune_trainer.store import StorageRefused, StoreUnreachable, open_store, probe
from s3_server import free_port
from web_tenant import AUDIENCE, MINE, OTHERS, ROLE, SUBJECT, Tenant


def test_a_token_opens_the_tenants_bucket_and_is_exchanged_once(tenant: Tenant) -> None:
    store = open_store(MINE)
    probe(store)
    store.create("kept", b"data")
    assert store.get("kept") == b"data"
    store.delete(["kept"])
    assert tenant.exchanges() == 1


def test_another_tenants_bucket_is_refused_by_name_and_with_what_to_do(tenant: Tenant) -> None:
    tenant.server.client().put_object(Bucket="web-identity-b", Key="runs/model", Body=b"secret")
    store = open_store(OTHERS)
    for call in (lambda: probe(store), lambda: store.get("model"), lambda: list(store.list())):
        with pytest.raises(StorageRefused, match=r"grant s3:GetObject, .* on the bucket 'web-identity-b'"):
            call()


def test_credentials_are_renewed_with_the_token_that_the_file_holds_then(tenant: Tenant) -> None:
    # In their last minute credentials are renewed before each request.
    tenant.server.add_role(ROLE, "a", [SUBJECT], seconds=30)
    store = open_store(MINE)
    store.create("first", b"")
    before = tenant.exchanges()
    tenant.file.write_text(tenant.issuer.token(SUBJECT, AUDIENCE, seconds=-60))
    with pytest.raises(StorageError, match=r"the web identity token has expired; have it renewed") as failed:
        store.create("second", b"")
    assert failed.value.retryable
    tenant.file.write_text(tenant.issuer.token(SUBJECT, AUDIENCE))
    store.create("third", b"")
    assert tenant.exchanges() >= before + 2  # a request that has to be repeated renews them once more
    store.delete(["first", "third"])


def test_credentials_that_have_expired_when_they_come_point_to_the_clock(tenant: Tenant) -> None:
    tenant.server.add_role(ROLE, "a", [SUBJECT], seconds=-60)
    with pytest.raises(StorageError, match=r"cannot be renewed \(.*\): check this machine's clock") as failed:
        open_store(MINE).create("first", b"")
    assert failed.value.retryable


def test_a_wrong_audience_is_refused_with_the_runtimes_field(tenant: Tenant) -> None:
    tenant.file.write_text(tenant.issuer.token(SUBJECT, "sts.amazonaws.com"))
    expected = r"no S3 credentials from http://.* \(Incorrect token audience\); .* storage\.webIdentity\.audience"
    with pytest.raises(StorageRefused, match=expected):
        probe(open_store(MINE))


def test_a_role_that_does_not_trust_the_service_account_is_named(tenant: Tenant) -> None:
    tenant.file.write_text(tenant.issuer.token("system:serviceaccount:team-b:trainer", AUDIENCE))
    with pytest.raises(StorageRefused, match=rf"team-b:trainer is not .*; check AWS_ROLE_ARN \(now {ROLE}\)"):
        probe(open_store(MINE))


def test_a_token_file_that_does_not_exist_is_named(tenant: Tenant) -> None:
    tenant.file.unlink()
    with pytest.raises(StorageRefused, match=rf"{tenant.file}.*check AWS_WEB_IDENTITY_TOKEN_FILE"):
        probe(open_store(MINE))


def test_an_sts_that_nobody_serves_is_named(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", nobody)
    expected = rf"check AWS_ENDPOINT_URL_STS \(now {nobody}\).*storage\.webIdentity\.stsEndpoint"
    with pytest.raises(StoreUnreachable, match=expected):
        probe(open_store(MINE))


def test_the_keys_of_a_secret_come_before_a_token(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in tenant.server.add_user("b", "web-identity-b").environment().items():
        monkeypatch.setenv(name, value)
    probe(open_store(OTHERS))
    assert tenant.exchanges() == 0
    assert "AWS_WEB_IDENTITY_TOKEN_FILE" in os.environ
