"""What a connection does to requests and answers on their way is seen, and time on it is limited."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faults import FOREVER
from faulty_http import cut_answer, drip_answer, flip_answer, flip_upload, hang, refuse
from faulty_proxy import FaultyProxy
from finetune_trainer.errors import StorageError
from finetune_trainer.store import ObjectStore, s3_client, s3_reader
from s3_bucket import Bucket


def drip_upload(pieces: int, pause: float) -> Callable[[Any], None]:
    """Take the request's body in so many pieces, a pause in seconds after each, as over a slow line."""

    def act(handler: Any) -> None:
        size, body = handler.body_length() // pieces, b""
        while piece := handler.rfile.read(min(size, handler.body_length() - len(body))):
            body += piece
            threading.Event().wait(pause)
        handler.answer(handler.forward(body))

    return act


@pytest.mark.parametrize(("signed", "hashed"), [("false", "UNSIGNED-PAYLOAD"), ("true", "[0-9a-f]{64}")])
def test_bodies_go_with_a_checksum_and_with_a_hash_only_where_a_profile_says_so(
    broken_store: ObjectStore,
    proxy: FaultyProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    signed: str,
    hashed: str,
) -> None:
    (tmp_path / "aws").write_text(f"[default]\ns3 =\n    payload_signing_enabled = {signed}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws"))
    broken_store.create("small", b"x")
    broken_store.create("large", memoryview(bytes(200_000)))
    broken_store.delete(["small", "large"])
    sent = [{name.lower(): value for name, value in headers.items()} for _, _, headers in proxy.seen]
    assert len(sent) == 3
    assert all(re.fullmatch(hashed, headers["x-amz-content-sha256"]) for headers in sent)
    assert all(any(name.startswith("x-amz-checksum-") for name in headers) for headers in sent)


def test_an_upload_that_is_damaged_on_its_way_is_not_stored_and_sent_again(
    broken_store: ObjectStore, bucket: Bucket, proxy: FaultyProxy
) -> None:
    data = os.urandom(2**20)
    proxy.inject("PUT", flip_upload(500_000))
    broken_store.create("big", memoryview(data))
    assert bucket.objects() == {"runs/big": data}
    proxy.inject("PUT", flip_upload(500_000), times=2)
    with pytest.raises(StorageError, match="arrived damaged and was not stored"):
        broken_store.put("big", memoryview(data)[::-1].tobytes())
    assert bucket.objects() == {"runs/big": data}


def test_what_is_damaged_on_its_way_here_shows_in_the_checksum(broken_store: ObjectStore, proxy: FaultyProxy) -> None:
    broken_store.create("a", bytes(1000))
    found = set()
    for damage in (False, True):
        if damage:
            proxy.inject("GET", flip_answer(500))
        found.add(broken_store.read_into("a", bytearray(1000)))
    assert len(found) == 2


def test_an_error_in_a_200_is_no_object(broken_store: ObjectStore, proxy: FaultyProxy) -> None:
    broken_store.create("a", bytes(1000))
    proxy.inject("GET", refuse(200, "InternalError"), times=FOREVER)
    with pytest.raises(StorageError, match="answers without an ETag"):
        broken_store.get("a")


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_store_that_says_nothing_is_given_up(
    broken_store: ObjectStore, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(s3_client, "READ_SECONDS", 0.2)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    proxy.inject(method, hang(), times=FOREVER)
    with pytest.raises(StorageError, match=r"stopped answering: check AWS_ENDPOINT_URL"):
        broken_store.get("a") if method == "GET" else broken_store.put("a", bytes(200_000))
    assert proxy.count(method) == 2


def test_an_upload_over_a_slow_line_goes_on_for_as_long_as_it_gets_further(
    broken_store: ObjectStore, bucket: Bucket, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    # urllib3 gives each piece of a body the time of a connect; 24 MiB are more than the sockets' buffers hold.
    monkeypatch.setattr(s3_client, "CONNECT_SECONDS", 0.5)
    data = os.urandom(24 * 2**20)
    proxy.inject("PUT", drip_upload(24, pause=0.05), times=FOREVER)
    broken_store.create("slow", memoryview(data))
    assert bucket.objects() == {"runs/slow": data}
    assert proxy.count("PUT") == 1


def test_an_upload_that_stands_still_is_given_up(
    broken_store: ObjectStore, bucket: Bucket, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_client, "CONNECT_SECONDS", 0.2)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    proxy.inject("PUT", drip_upload(2, pause=1.0), times=FOREVER)
    with pytest.raises(StorageError, match="closed the connection, after all retries"):
        broken_store.create("slow", memoryview(os.urandom(24 * 2**20)))
    assert bucket.objects() == {}


def test_a_read_that_gets_slow_goes_on_over_another_connection(
    broken_store: ObjectStore, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(4 * 2**20)
    broken_store.create("a", memoryview(data))
    monkeypatch.setattr(s3_reader, "SLOW_SECONDS", 0.2)
    proxy.inject("GET", drip_answer(16, pause=0.1))
    assert broken_store.get("a") == data
    ranges = [headers.get("Range") for method, _, headers in proxy.seen if method == "GET"]
    assert ranges == [None, f"bytes={2**20}-"]


def test_a_body_that_drips_is_given_up_though_bytes_keep_coming(
    broken_store: ObjectStore, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(500_000)
    broken_store.create("a", memoryview(data))
    monkeypatch.setattr(s3_reader, "SLOW_SECONDS", 0.1)
    drip = drip_answer(10**6, pause=0.01)
    proxy.inject("GET", drip)
    assert broken_store.get("a") == data  # over another connection
    proxy.inject("GET", drip, times=FOREVER)
    began = time.monotonic()
    with pytest.raises(
        StorageError, match=r"runs/a: .* comes at less than 2621 KB/s, at byte 0 of 500000, after 4 att"
    ):
        broken_store.get("a")
    assert time.monotonic() - began < 20
    assert proxy.count("GET") == 2 + 4


def test_a_connection_that_the_store_gave_up_is_not_used_again(broken_store: ObjectStore, proxy: FaultyProxy) -> None:
    data = os.urandom(100_000)
    broken_store.create("a", data)
    for _ in range(3):
        proxy.inject("GET", cut_answer(len(data)))
        assert broken_store.get("a") == data
    assert proxy.count("GET") == 3
