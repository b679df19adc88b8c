"""What is wrong with an address, credentials, rights or a disk is said with what to do about it; no secret is shown."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typing_extensions import Buffer

from faults import FOREVER
from faulty_http import refuse
from faulty_proxy import faulty_proxy
from finetune_trainer.errors import StorageError
from finetune_trainer.store import (
    ObjectExists,
    ObjectInfo,
    ObjectNotFound,
    StorageRefused,
    open_store,
    probe,
)
from finetune_trainer.store.file import FileStore
from s3_bucket import Bucket
from s3_server import free_port


def test_a_missing_bucket_is_named(bucket: Bucket) -> None:
    store = open_store("s3://no-such-bucket-here/runs")
    for call in (lambda: probe(store), lambda: store.head("a"), lambda: store.get("a"), lambda: store.put("a", b"")):
        with pytest.raises(StorageRefused, match="the bucket 'no-such-bucket-here' does not exist at http://127"):
            call()


def test_a_wrong_secret_is_said_to_be_one_and_not_shown(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret-of-this-server")
    store = open_store(bucket.uri)
    for call in (lambda: probe(store), lambda: store.head("a"), lambda: store.create("a", b"x")):
        with pytest.raises(StorageRefused, match=r"secret key does not fit .* check AWS_ACCESS_KEY_ID") as caught:
            call()
        assert "not-the-secret-of-this-server" not in str(caught.value)
        assert bucket.server.secret_key not in str(caught.value)


def test_an_unknown_access_key_is_said_to_be_one(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIANOBODY")
    with pytest.raises(StorageRefused, match="does not know the access key id"):
        open_store(bucket.uri).head("a")


def test_no_credentials_at_all_name_the_variables(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageRefused, match="no S3 credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        probe(open_store(bucket.uri))


def test_half_of_the_credentials_is_said_to_be_half(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageRefused, match="credentials are incomplete"):
        probe(open_store(bucket.uri))


def test_an_unknown_profile_is_named(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StorageRefused, match="nobody"):
        probe(open_store(bucket.uri))


def test_an_endpoint_that_nobody_serves_is_named(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://me:hunter2@127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with pytest.raises(StorageError, match=r"cannot be reached: check AWS_ENDPOINT_URL \(now http://127") as caught:
        probe(open_store(bucket.uri))
    assert caught.value.retryable
    assert "hunter2" not in str(caught.value)


def test_an_endpoint_that_is_no_address_is_refused(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:9000")
    with pytest.raises(StorageRefused, match=r"127\.0\.0\.1:9000"):
        probe(open_store(bucket.uri))


@pytest.mark.parametrize(
    ("status", "code", "text"),
    [
        (403, "AccessDenied", r"may not do it; grant s3:GetObject, s3:PutObject"),
        (403, "RequestTimeTooSkewed", r"clock is wrong; set it by NTP"),
        (400, "AuthorizationHeaderMalformed", r"another region; set AWS_DEFAULT_REGION"),
        (501, "NotImplemented", r"conditional writes"),
        (507, "XMinioStorageFull", r"the store is full; make room"),
        (
            400,
            "KMS.DisabledException",
            r"key that encrypts cannot be used .*check FINETUNE_S3_KMS_KEY_ID \(now alias/k\)",
        ),
        (403, "AccessDenied", r"see that the account 123456789012 of FINETUNE_S3_EXPECTED_BUCKET_OWNER owns"),
        (418, "SomethingNew", r"answered SomethingNew \(HTTP 418\): in the store's words"),
    ],
)
def test_an_answer_is_explained(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, status: int, code: str, text: str
) -> None:
    with faulty_proxy(bucket.server.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        monkeypatch.setenv("FINETUNE_S3_KMS_KEY_ID", "alias/k")
        monkeypatch.setenv("FINETUNE_S3_EXPECTED_BUCKET_OWNER", "123456789012")
        for method in ("PUT", "GET", "HEAD"):
            proxy.inject(method, refuse(status, code, "in the store's words"), times=FOREVER)
        store = open_store(bucket.uri)
        for call in (lambda: store.create("a", b"x"), lambda: store.get("a"), lambda: store.head("a")):
            with pytest.raises(StorageError, match=text):
                call()


def test_every_request_names_the_buckets_owner_and_writes_alone_ask_for_encryption(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = bucket.server.access_key
    with faulty_proxy(bucket.server.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        monkeypatch.setenv("FINETUNE_S3_SERVER_SIDE_ENCRYPTION", "aws:kms")
        monkeypatch.setenv("FINETUNE_S3_KMS_KEY_ID", "alias/k")
        monkeypatch.setenv("FINETUNE_S3_EXPECTED_BUCKET_OWNER", owner)
        store = open_store(bucket.uri)
        probe(store)
        store.put("a", bytes(100_000))
        assert len(store.get("a")) == store.head("a").size
    sent = [(method, {name.lower(): value for name, value in headers.items()}) for method, _, headers in proxy.seen]
    assert {method for method, _ in sent} == {"GET", "HEAD", "PUT", "POST"}
    assert {headers.get("x-amz-expected-bucket-owner") for _, headers in sent} == {owner}
    assert {method for method, headers in sent if "x-amz-server-side-encryption" in headers} == {"PUT"}
    keys = {headers.get("x-amz-server-side-encryption-aws-kms-key-id") for method, headers in sent if method == "PUT"}
    assert keys == {"alias/k"}


def test_a_bucket_of_another_owner_is_refused(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_S3_EXPECTED_BUCKET_OWNER", "123456789012")
    with pytest.raises(StorageRefused, match="the account 123456789012 of FINETUNE_S3_EXPECTED_BUCKET_OWNER owns"):
        probe(open_store(bucket.uri))


class OverwritingStore(FileStore):
    """A store whose `create` overwrites, as S3-compatible ones do that ignore If-None-Match."""

    def create(self, key: str, data: Buffer, *, crc64: int | None = None) -> ObjectInfo:
        return self.put(key, data)


class CheckThenActStore(FileStore):
    """A store whose `create` looks first and writes then, as s3s-fs 0.17 does."""

    def create(self, key: str, data: Buffer, *, crc64: int | None = None) -> ObjectInfo:
        found = list(self.list(key))
        os.sched_yield()
        if found:
            raise ObjectExists(key)
        return self.put(key, data)


@pytest.mark.parametrize("broken", [OverwritingStore, CheckThenActStore])
def test_the_probe_refuses_a_store_without_conditional_writes(tmp_path: Path, broken: type[FileStore]) -> None:
    store = broken(tmp_path / "runs")
    with pytest.raises(StorageRefused, match=r"of 9 writers create one object: use a store with conditional writes"):
        for _ in range(20):  # a race is not lost every time
            probe(store)
    assert list(store.list()) == []


def test_a_folder_that_may_not_be_written_is_named() -> None:
    # Not even root may make a file in /sys.
    with pytest.raises(StorageRefused, match=r"cannot create /sys/runs/a \(1 bytes\): .*; give user \d+ the right to"):
        open_store("file:///sys/runs").create("a", b"x")


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"x")
    with pytest.raises(StorageRefused, match=r"taken/a .*a file and a folder cannot have one name"):
        open_store(f"file://{tmp_path / 'taken'}").create("a", b"x")


def test_a_folder_is_no_object(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}")
    store.create("a/b", b"x")
    for method in (store.head, store.get, store.open):
        with pytest.raises(ObjectNotFound):
            method("a")
    with pytest.raises(StorageRefused, match="cannot have one name"):
        store.put("a", b"x")
    store.delete(["a", "a/b/c"])
    assert store.get("a/b") == b"x"
    with pytest.raises(ObjectNotFound):
        store.get("a/b/c")


DISK_FULL = """
import json, sys
from pathlib import Path
from finetune_trainer.errors import StorageError
from finetune_trainer.store import Identity, RunLog, open_store
root = Path(sys.argv[1])
store = open_store(f"file://{root}")
log = RunLog(store, "team.job")
writer = log.claim(Identity(hash="0"))
kept = writer.commit(1, None, [writer.write(writer.new_checkpoint(1), "weights", bytes(300_000))], {})
before = sorted(str(path) for path in root.rglob("*"))
errors = []
for write in (store.create, store.put):
    try:
        write("team.job/data/new/big", bytes(3_000_000))
    except StorageError as error:
        errors.append([type(error).__name__, str(error)])
after = sorted(str(path) for path in root.rglob("*"))
small = writer.commit(2, kept.seq, [writer.write(writer.new_checkpoint(2), "weights", bytes(1000))], {})
good = log.latest_good().entry
print(json.dumps({"errors": errors, "same": before == after, "good": good == small, "problems": log.verify(kept)}))
"""


def test_a_full_disk_is_named_and_leaves_nothing_behind(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    mount = 'mount -t tmpfs -o size=1m tmpfs "$1" && exec "$2" -c "$3" "$1"'
    shell = [unshare or "unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh", str(tmp_path)]
    if unshare is None or subprocess.run([*shell, "true", ""], capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small tmpfs in a user namespace (unshare): a real full disk is NOT tested here")
    done = subprocess.run([*shell, sys.executable, DISK_FULL], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    path = tmp_path / "team.job/data/new/big"
    assert [kind for kind, _ in result["errors"]] == ["StorageError", "StorageError"]
    assert f"cannot create {path} (3000000 bytes): the disk is full (" in result["errors"][0][1]
    assert f"cannot write {path} (3000000 bytes): the disk is full (" in result["errors"][1][1]
    assert result["same"], "files or folders were left behind"
    assert result["good"]
    assert result["problems"] == []
