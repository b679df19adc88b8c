"""Our own S3 server breaks as its script says, and only so."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from faulty_http import flip, refuse
from s3_faults.requests import Call, Operation
from s3_faults.server import FaultyS3, lag, rot


@pytest.fixture
def client(faulty_s3: FaultyS3) -> Any:
    """A client that tries once."""
    return faulty_s3.client(config=Config(retries={"total_max_attempts": 1}))


@pytest.fixture
def name(faulty_s3: FaultyS3) -> str:
    """An empty bucket."""
    return faulty_s3.make_bucket()


def came(client: Any, operation: str, **request: Any) -> str:
    try:
        getattr(client, operation)(**request)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    except BotoCoreError as error:
        return type(error).__name__
    return "ok"


def test_a_fault_strikes_its_operation_its_keys_and_its_turn(faulty_s3: FaultyS3, client: Any, name: str) -> None:
    faulty_s3.inject(refuse(503, "SlowDown"), Operation.PUT, key="a/*", skip=1, times=2)
    for key, code in [("a/1", "ok"), ("b", "ok"), ("a/2", "SlowDown"), ("a/3", "SlowDown"), ("a/4", "ok")]:
        assert came(client, "put_object", Bucket=name, Key=key, Body=b"x") == code
    assert came(client, "get_object", Bucket=name, Key="a/1") == "ok"
    assert faulty_s3.count(Operation.PUT, key="a/*") == 4
    assert list(faulty_s3.bucket(name).listed()) == ["a/1", "a/4", "b"]


@pytest.mark.parametrize("effect", [True, False])
def test_a_server_that_crashed_has_what_took_effect(faulty_s3: FaultyS3, client: Any, name: str, effect: bool) -> None:
    client.put_object(Bucket=name, Key="a", Body=b"before")
    faulty_s3.crash(Operation.PUT, effect=effect)
    assert came(client, "put_object", Bucket=name, Key="b", Body=b"lost?") == "ConnectionClosedError"
    assert came(client, "get_object", Bucket=name, Key="a") == "ConnectionClosedError"
    faulty_s3.restart()
    assert came(client, "get_object", Bucket=name, Key="b") == ("ok" if effect else "NoSuchKey")


def test_a_listing_that_lags_is_that_of_earlier_changes(faulty_s3: FaultyS3, client: Any, name: str) -> None:
    for key in ("a", "b"):
        client.put_object(Bucket=name, Key=key, Body=b"x")
    client.delete_object(Bucket=name, Key="a")
    told = []
    for changes in (1, 2, 3):
        faulty_s3.inject(lag(changes), Operation.LIST)
        told.append([one["Key"] for one in client.list_objects_v2(Bucket=name).get("Contents", [])])
    assert told == [["a", "b"], ["a"], []]
    assert [one["Key"] for one in client.list_objects_v2(Bucket=name)["Contents"]] == ["b"]


def test_what_rots_keeps_its_etag_and_its_checksum(faulty_s3: FaultyS3, client: Any, name: str) -> None:
    faulty_s3.inject(rot(lambda data: flip(data, 0)), Operation.PUT)
    written = client.put_object(Bucket=name, Key="a", Body=b"data", ChecksumAlgorithm="CRC64NVME")
    read = client.get_object(Bucket=name, Key="a", Range="bytes=0-2")
    assert (read["ETag"], read["Body"].read()) == (written["ETag"], b"eat")
    head = client.head_object(Bucket=name, Key="a", ChecksumMode="ENABLED")
    assert head["ChecksumCRC64NVME"] == written["ChecksumCRC64NVME"]


def test_a_bucket_is_a_path_or_a_host_below_the_domain() -> None:
    places = [("/b/a/%C3%A9%20x", "127.0.0.1:80"), ("/a/%C3%A9%20x", "b.s3.test:80"), ("/a/%C3%A9%20x", "b.s3.test")]
    calls = [Call.of("GET", target, {"host": host}, "s3.test") for target, host in places]
    assert {(call.operation, call.bucket, call.key) for call in calls} == {(Operation.GET, "b", "a/é x")}


def test_what_the_server_cannot_do_is_refused(faulty_s3: FaultyS3, client: Any, name: str) -> None:
    assert came(client, "get_object_acl", Bucket=name, Key="a") == "NotImplemented"
    assert came(client, "list_object_versions", Bucket=name) == "NotImplemented"
