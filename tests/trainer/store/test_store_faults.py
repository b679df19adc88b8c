"""A failing network or store loses nothing and doubles nothing: real S3 behind a proxy that breaks connections."""

from __future__ import annotations

import os

import pytest

from faults import FOREVER
from faulty_http import Action, cut_answer, flip_answer, lose_answer, refuse, reply, reset_upload
from faulty_proxy import FaultyProxy
from finetune_trainer.errors import StorageError
from finetune_trainer.store import (
    Identity,
    ObjectExists,
    ObjectStore,
    RunLog,
    StorageRefused,
    find_problems,
    open_store,
)
from s3_bucket import Bucket

ME = Identity(hash="0" * 64, fields={"spec.training.seed": 0})


TRANSIENT = {
    "throttled": refuse(503, "SlowDown"),
    "down": refuse(503, "ServiceUnavailable"),
    "failing": refuse(500, "InternalError"),
    "gateway": reply(502, b"<html>Bad Gateway</html>"),
    "reset": reset_upload(0),
    "conflict": refuse(409, "ConditionalRequestConflict"),
    "error in a 200": refuse(200, "InternalError"),
}


@pytest.mark.parametrize("action", TRANSIENT.values(), ids=TRANSIENT.keys())
def test_a_create_outlives_transient_failures(
    broken_store: ObjectStore, bucket: Bucket, proxy: FaultyProxy, action: Action
) -> None:
    proxy.inject("PUT", action, times=2)
    broken_store.create("a", b"payload")
    assert bucket.objects() == {"runs/a": b"payload"}
    assert proxy.count("PUT") == 3
    with pytest.raises(ObjectExists):
        broken_store.create("a", b"other")


@pytest.mark.parametrize("action", [TRANSIENT["throttled"], TRANSIENT["reset"]], ids=["throttled", "reset"])
def test_reads_and_lists_outlive_transient_failures(
    broken_store: ObjectStore, proxy: FaultyProxy, action: Action
) -> None:
    broken_store.create("a", b"payload")
    proxy.inject("GET", action, times=2)
    assert broken_store.get("a") == b"payload"
    proxy.inject("GET", action, times=2)
    assert [info.key for info in broken_store.list()] == ["a"]
    proxy.inject("HEAD", action, times=2)
    assert broken_store.head("a").size == 7


def test_an_upload_that_is_reset_in_its_middle_is_sent_again_whole(
    broken_store: ObjectStore, bucket: Bucket, proxy: FaultyProxy
) -> None:
    data = os.urandom(8 * 2**20)
    proxy.inject("PUT", reset_upload(3 * 2**20), times=2)
    broken_store.create("big", memoryview(bytearray(data))[:])
    assert bucket.objects() == {"runs/big": data}


def test_a_create_whose_answer_was_lost_succeeds_once(
    broken_store: ObjectStore, bucket: Bucket, proxy: FaultyProxy
) -> None:
    proxy.inject("PUT", lose_answer())
    info = broken_store.create("a", b"written by me")
    assert proxy.count("PUT") == 2
    assert bucket.objects() == {"runs/a": b"written by me"}
    assert info == broken_store.head("a")


def test_a_retried_create_does_not_take_another_writers_object_for_its_own(
    broken_store: ObjectStore, bucket: Bucket, proxy: FaultyProxy
) -> None:
    def other_writer() -> None:
        bucket.client.put_object(Bucket=bucket.name, Key="runs/a", Body=b"written by you")

    proxy.inject("PUT", lose_answer(other_writer, forward=False))
    with pytest.raises(ObjectExists):
        broken_store.create("a", b"written by me.")
    assert bucket.objects() == {"runs/a": b"written by you"}


def test_a_store_that_stays_down_is_an_error_and_nothing_is_stored(
    broken_store: ObjectStore, bucket: Bucket, proxy: FaultyProxy
) -> None:
    proxy.inject("PUT", refuse(503, "SlowDown"), times=FOREVER)
    with pytest.raises(StorageError, match=r"cannot create s3://.*/runs/a \(7 bytes\): .* throttles") as caught:
        broken_store.create("a", b"payload")
    assert caught.value.retryable
    assert proxy.count("PUT") == 4
    assert bucket.objects() == {}


def test_expired_credentials_are_an_error_at_once(broken_store: ObjectStore, proxy: FaultyProxy) -> None:
    proxy.inject("PUT", refuse(403, "ExpiredToken"), times=FOREVER)
    with pytest.raises(StorageError, match=r"credentials have expired; get new ones") as caught:
        broken_store.create("a", b"payload")
    assert caught.value.retryable
    assert proxy.count("PUT") == 1


def test_credentials_that_expire_during_a_read_are_an_error(broken_store: ObjectStore, proxy: FaultyProxy) -> None:
    broken_store.create("a", os.urandom(100_000))
    proxy.inject("GET", cut_answer(50_000))
    proxy.inject("GET", refuse(403, "ExpiredToken"), times=FOREVER)
    with pytest.raises(StorageError, match="credentials have expired"):
        broken_store.get("a")


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_body_that_breaks_off_is_read_on_from_there(
    broken_store: ObjectStore, proxy: FaultyProxy, reset: bool
) -> None:
    data = os.urandom(4_000_000)
    broken_store.create("a", data)
    proxy.inject("GET", cut_answer(700_000, reset=reset), times=7)
    assert broken_store.get("a") == data
    later = [headers for method, _, headers in proxy.seen if method == "GET"][1:]
    assert len(later) >= 5
    assert all("If-Match" in headers for headers in later)
    assert [headers for headers in later if headers.get("Range", "bytes=0-") != "bytes=0-"]
    proxy.inject("GET", cut_answer(700_000, reset=reset), times=7)
    with broken_store.open("a") as file:
        assert file.read() == data
    proxy.inject("GET", cut_answer(700_000, reset=reset), times=2)
    assert broken_store.get("a", 10, 1_000_000) == data[10:1_000_010]


def test_a_body_that_never_comes_is_an_error(broken_store: ObjectStore, proxy: FaultyProxy) -> None:
    broken_store.create("a", os.urandom(1000))
    proxy.inject("GET", cut_answer(0), times=FOREVER)
    with pytest.raises(StorageError, match="breaks off at byte 0 of 1000, after 4 attempts"):
        broken_store.get("a")


def test_an_object_that_is_replaced_while_it_is_read_is_an_error(
    broken_store: ObjectStore, bucket: Bucket, proxy: FaultyProxy
) -> None:
    def replace() -> None:
        bucket.client.put_object(Bucket=bucket.name, Key="runs/a", Body=os.urandom(100_000))

    broken_store.create("a", os.urandom(100_000))
    proxy.inject("GET", cut_answer(50_000, replace))
    with pytest.raises(StorageError, match="was replaced while it was read"):
        broken_store.get("a")


def test_what_a_delete_leaves_over_is_deleted_again(
    broken_store: ObjectStore, bucket: Bucket, proxy: FaultyProxy
) -> None:
    for key in ("a", "b"):
        broken_store.create(key, b"x")
    left = (
        b"<DeleteResult><Error><Key>runs/b</Key><Code>InternalError</Code><Message>m</Message></Error></DeleteResult>"
    )
    proxy.inject("POST", reply(200, left))
    broken_store.delete(["a", "b"])
    assert set(bucket.objects()) == {"runs/a"}  # the store said that `a` was gone; only `b` was asked for again
    denied = left.replace(b"InternalError", b"AccessDenied")
    proxy.inject("POST", reply(200, denied))
    with pytest.raises(StorageRefused, match=r"delete s3://.*/runs/b: .*grant"):
        broken_store.delete(["b"])


def test_a_read_that_is_damaged_on_its_way_is_read_again(broken_store: ObjectStore, proxy: FaultyProxy) -> None:
    log = RunLog(broken_store, "team.job")
    writer = log.claim(ME)
    entry = writer.commit(1, None, [writer.write(writer.new_checkpoint(1), "weights", bytes(1000))], {})
    proxy.inject("GET", flip_answer(500), part="weights")
    assert log.verify(entry) == []
    proxy.inject("GET", flip_answer(500), part="weights", times=2)
    (problem,) = log.verify(entry)
    assert "weights is damaged" in problem


def test_a_failing_store_is_no_damaged_checkpoint(broken_store: ObjectStore, proxy: FaultyProxy) -> None:
    log = RunLog(broken_store, "team.job")
    writer = log.claim(ME)
    entry = writer.commit(1, None, [writer.write(writer.new_checkpoint(1), "weights", bytes(1000))], {})
    proxy.inject("GET", refuse(503, "SlowDown"), part="weights", times=FOREVER)
    with pytest.raises(StorageError, match="throttles"):
        log.latest_good()
    assert find_problems(open_store(broken_store.uri), ()) == []
    assert log.checkpoints() == [entry]


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_every_entry_is_written_once_though_answers_are_lost(
    broken_store: ObjectStore, proxy: FaultyProxy, lost: int
) -> None:
    log = RunLog(broken_store, "team.job")
    proxy.inject("PUT", lose_answer(), part="/log/", times=lost)
    writer = log.claim(ME)
    refs = [writer.write(writer.new_checkpoint(1), "weights", b"1")]
    proxy.inject("PUT", lose_answer(), part="/log/", times=lost)
    first = writer.commit(1, None, refs, {})
    proxy.inject("PUT", lose_answer(), part="/log/", times=lost)
    writer.quarantine(first, "for this test")
    fresh = RunLog(open_store(broken_store.uri), "team.job")
    assert [entry.kind for entry in fresh.entries()] == ["claim", "checkpoint", "quarantine"]


def test_a_commit_that_failed_for_good_does_not_exist(
    broken_store: ObjectStore, bucket: Bucket, proxy: FaultyProxy
) -> None:
    log = RunLog(broken_store, "team.job")
    writer = log.claim(ME)
    kept = writer.commit(1, None, [writer.write(writer.new_checkpoint(1), "weights", b"1")], {})
    refs = [writer.write(writer.new_checkpoint(2), "weights", b"2")]
    proxy.inject("PUT", refuse(500, "InternalError"), part="/log/", times=4)
    with pytest.raises(StorageError, match="after all retries"):
        writer.commit(2, kept.seq, refs, {})
    assert RunLog(broken_store, "team.job").checkpoints() == [kept]
    again = writer.commit(2, kept.seq, refs, {})
    assert again.seq == kept.seq + 1
