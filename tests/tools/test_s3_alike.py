"""Our own S3 server (tests/s3_faults) and versitygw answer alike, but for the differences that stand here by name."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from finetune_trainer.store.checksums import crc64_header, crc64nvme
from s3_faults.server import FaultyS3
from s3_server import Keys, S3Server
from tools.s3_probes import PART, Probe, Probed, chunked, complete, digest, race, upload


@pytest.fixture(params=["ours", "versitygw"])
def probed(request: pytest.FixtureRequest) -> Probed:
    """An empty bucket on each server."""
    fixture = {"ours": "faulty_s3", "versitygw": "s3"}[request.param]
    server: FaultyS3 | S3Server = request.getfixturevalue(fixture)
    name = f"alike-{uuid.uuid4().hex[:12]}"
    server.client().create_bucket(Bucket=name)
    return Probed(server.endpoint, server.keys, name)


def filled(probed: Probed, *keys: str, body: bytes = b"0123456789") -> Probed:
    for key in keys:
        probed.client.put_object(Bucket=probed.bucket, Key=key, Body=body)
    return probed


def refused_checksum(name: str, value: str) -> Probe:
    return lambda one: [one.call("put_object", Key="a", Body=b"data", **{name: value}), one.held()]


def cas(probed: Probed) -> int:
    etag = probed.client.put_object(Bucket=probed.bucket, Key="raced", Body=b"first")["ETag"]
    return race(probed, {"IfMatch": etag})


def ranges(probed: Probed) -> list[Any]:
    filled(probed, "a")
    asked = ("bytes=0-0", "bytes=7-", "bytes=-3", "bytes=8-99", "bytes=10-", "bytes=3-2")
    return [probed.call("get_object", "ContentLength", "ContentRange", Key="a", Range=one) for one in asked]


def pages(probed: Probed) -> list[Any]:
    filled(probed, "a-b", "a/b", "a/c", "a0", "b/1/2", "é", body=b"")
    found: list[Any] = []
    for request in ({"Delimiter": "/"}, {"Prefix": "a/"}, {"StartAfter": "a/b"}, {"Prefix": "b/", "Delimiter": "/"}):
        paged = probed.client.get_paginator("list_objects_v2").paginate(
            Bucket=probed.bucket, PaginationConfig={"PageSize": 2}, **request
        )
        listed = [page for page in paged]
        keys = [one["Key"] for page in listed for one in page.get("Contents", [])]
        found.append((keys, [one["Prefix"] for page in listed for one in page.get("CommonPrefixes", [])]))
    return found


def checksums_told(probed: Probed) -> list[Any]:
    value = crc64_header(crc64nvme(b"data"))
    probed.client.put_object(Bucket=probed.bucket, Key="sent", Body=b"data", ChecksumCRC64NVME=value)
    filled(probed, "added", body=b"data")
    picked = ("ChecksumCRC64NVME", "ChecksumType")
    asked = {"ChecksumMode": "ENABLED"}
    found = [probed.call(op, *picked, Key=key, **asked) for op in ("head_object", "get_object") for key in _SENT]
    return [*found, probed.call("head_object", "ChecksumCRC64NVME", Key="sent")]


_SENT = ("sent", "added")
DATA = crc64_header(crc64nvme(b"data"))


def deleted(probed: Probed) -> list[Any]:
    filled(probed, "a", "b", "c")
    wrong = probed.call("delete_object", Key="a", IfMatch='"0"')
    several = {"Objects": [{"Key": key} for key in ("b", "c", "never")], "Quiet": True}
    return [wrong, probed.call("delete_objects", "Errors", Delete=several), list(probed.held())]


def conditional_reads(probed: Probed) -> list[Any]:
    etag = probed.client.put_object(Bucket=probed.bucket, Key="a", Body=b"data")["ETag"]
    conditions = ({"IfNoneMatch": etag}, {"IfMatch": '"0"'}, {"IfMatch": etag})
    return [probed.call("get_object", Key="a", **one) for one in conditions]


def whole_upload(probed: Probed) -> list[Any]:
    parts = [b"a" * PART, b"b"]
    name, done = upload(probed, parts)
    unfinished = probed.client.list_multipart_uploads(Bucket=probed.bucket)["Uploads"]
    listed = probed.client.list_parts(Bucket=probed.bucket, Key="big", UploadId=name)["Parts"]
    first = complete(probed, name, done, "ETag", MpuObjectSize=PART + 1)
    again = complete(probed, name, done, "ETag")
    sizes = [part["Size"] for part in listed]
    told = probed.call("head_object", "ChecksumCRC64NVME", "ChecksumType", Key="big", ChecksumMode="ENABLED")
    right = [crc64_header(crc64nvme(b"".join(parts))), "FULL_OBJECT"]
    return [len(unfinished), sizes, first == again, first[-3:], probed.read("big") == b"".join(parts), told == right]


def refused_uploads(probed: Probed) -> list[Any]:
    name, (one, two) = upload(probed, [b"a" * PART, b"b" * PART])
    wrong = {"PartNumber": 2, "ETag": '"0123456789abcdef0123456789abcdef"'}
    lacking = {"PartNumber": 3, "ETag": two["ETag"]}
    found = [complete(probed, name, parts) for parts in ([two, one], [one, wrong], [one, lacking])]
    small, (first, second) = upload(probed, [b"a", b"b"])
    found.append(complete(probed, small, [first, second]))
    probed.client.abort_multipart_upload(Bucket=probed.bucket, Key="big", UploadId=name)
    return [*found, complete(probed, name, [one, two]), probed.held()]


def wrong_whole(probed: Probed) -> list[Any]:
    name, done = upload(probed, [b"date"], ChecksumAlgorithm="CRC64NVME")
    wrong = {"ChecksumCRC64NVME": DATA, "ChecksumType": "FULL_OBJECT"}
    return [complete(probed, name, done, **wrong), complete(probed, name, done, MpuObjectSize=5), probed.held()]


def contested_upload(probed: Probed) -> list[Any]:
    name, done = upload(probed, [b"late"])
    filled(probed, "big", body=b"early")
    return [complete(probed, name, done, IfNoneMatch="*"), probed.read("big")]


def composite(probed: Probed) -> Any:
    name, done = upload(probed, [b"a" * PART, b"b"], ChecksumAlgorithm="CRC32C")
    complete(probed, name, done)
    return probed.call("head_object", "ChecksumCRC32C", "ChecksumType", Key="big", ChecksumMode="ENABLED")


def in_chunks(probed: Probed) -> list[Any]:
    right, wrong = chunked(b"data", b"data"), chunked(b"data", b"date")
    return [probed.raw("a", *right), probed.raw("b", *wrong), probed.raw("c", right[0][:-30], right[1]), probed.held()]


def cut_short(probed: Probed) -> dict[str, bytes]:
    filled(probed, "kept")
    for key in ("new", "kept"):
        assert not probed.raw(key, bytes(10**6), {"X-Claimed-Sha256": "UNSIGNED-PAYLOAD"}, sent=500_000).startswith("2")
    return probed.held()


def signatures(probed: Probed) -> list[Any]:
    unsigned = {"X-Claimed-Sha256": "UNSIGNED-PAYLOAD"}
    found = [Probed(probed.endpoint, Keys(probed.keys.access, "wrong"), probed.bucket).call("put_object", Key="a")]
    found.append(probed.raw("a", b"data", {"X-Claimed-Sha256": "0" * 64}))
    found.append(probed.raw("a", b"data", {**unsigned, "x-amz-meta-a": "b"}, tamper="c"))
    return [*found, probed.held(), probed.raw("a", b"data", unsigned)]


def unknown_key(probed: Probed) -> Any:
    return Probed(probed.endpoint, Keys("nobody", "secret"), probed.bucket).call("list_objects_v2")


def copies(probed: Probed) -> list[Any]:
    probed.client.put_object(Bucket=probed.bucket, Key="a b", Body=b"data", Metadata={"of": "me"})
    source = {"Bucket": probed.bucket, "Key": "a b"}
    copied = probed.call("copy_object", Key="c", CopySource=source)
    return [copied, probed.call("head_object", "ContentLength", "Metadata", Key="c")]


def no_such(probed: Probed) -> list[Any]:
    other = Probed(probed.endpoint, probed.keys, "no-such-bucket-here")
    asked = [one.call("get_object", Key="a") for one in (probed, other)]
    return [*asked, probed.call("head_object", Key="a"), other.call("list_objects_v2")]


DECODED = {"a": b"data"}
ALIKE: dict[str, tuple[Probe, Any]] = {
    "create races": (lambda one: race(one, {"IfNoneMatch": "*"}), 1),
    "compare-and-swap races": (cas, 1),
    "If-Match on nothing": (lambda one: one.call("put_object", Key="a", Body=b"x", IfMatch='"0"'), "NoSuchKey"),
    "wrong CRC64NVME": (refused_checksum("ChecksumCRC64NVME", "AAAAAAAAAAA="), ["BadDigest", {}]),
    "wrong CRC32": (refused_checksum("ChecksumCRC32", "AAAAAA=="), ["BadDigest", {}]),
    "wrong CRC32C": (refused_checksum("ChecksumCRC32C", "AAAAAA=="), ["BadDigest", {}]),
    "wrong SHA256": (refused_checksum("ChecksumSHA256", digest("sha256", b"date")), ["BadDigest", {}]),
    "wrong MD5": (refused_checksum("ContentMD5", digest("md5", b"date")), ["BadDigest", {}]),
    "checksums are told": (checksums_told, [[DATA, "FULL_OBJECT"]] * 4 + [None]),
    "ranges": (
        ranges,
        [
            [1, "bytes 0-0/10"],
            [3, "bytes 7-9/10"],
            [3, "bytes 7-9/10"],
            [2, "bytes 8-9/10"],
            "InvalidRange",
            [10, None],
        ],
    ),
    "listings": (
        pages,
        [
            (["a-b", "a0", "é"], ["a/", "b/"]),
            (["a/b", "a/c"], []),
            (["a/c", "a0", "b/1/2", "é"], []),
            ([], ["b/1/"]),
        ],
    ),
    "deletions": (deleted, ["PreconditionFailed", None, ["a"]]),
    "conditional reads": (conditional_reads, ["304", "PreconditionFailed", "ok"]),
    "multipart": (whole_upload, [1, [PART, 1], True, '-2"', True, True]),
    "multipart refused": (
        refused_uploads,
        ["InvalidPartOrder", "InvalidPart", "InvalidPart", "EntityTooSmall", "NoSuchUpload", {}],
    ),
    "multipart of another checksum or size": (wrong_whole, ["BadDigest", "InvalidRequest", {}]),
    "multipart onto a taken key": (contested_upload, ["PreconditionFailed", b"early"]),
    "composite checksums": (composite, ["xVGK2Q==-2", "COMPOSITE"]),
    "aws-chunked": (in_chunks, ["200", "400", "400", DECODED]),
    "bodies cut short": (cut_short, {"kept": b"0123456789"}),
    "signatures": (signatures, ["SignatureDoesNotMatch", "400", "403", {}, "200"]),
    "an unknown access key": (unknown_key, "InvalidAccessKeyId"),
    "copies": (copies, ["ok", [4, {"of": "me"}]]),
    "what is not there": (no_such, ["NoSuchKey", "NoSuchBucket", "404", "NoSuchBucket"]),
}


@pytest.mark.parametrize("name", ALIKE)
def test_both_servers_do_as_s3_does(probed: Probed, name: str) -> None:
    probe, expected = ALIKE[name]
    assert probe(probed) == expected


def copy_onto(probed: Probed) -> Any:
    filled(probed, "a", "b")
    return probed.call("copy_object", Key="b", CopySource={"Bucket": probed.bucket, "Key": "a"}, IfNoneMatch="*")


def deleted_meanwhile(probed: Probed) -> str:
    """What a create is told of a key that was written and deleted while its body came."""

    def meanwhile() -> None:
        filled(probed, "a").client.delete_object(Bucket=probed.bucket, Key="a")

    headers = {"X-Claimed-Sha256": "UNSIGNED-PAYLOAD", "If-None-Match": "*"}
    return probed.raw("a", bytes(2**20), headers, meanwhile=meanwhile)


def told_encoding(probed: Probed) -> Any:
    probed.raw("a", *chunked(b"data", b"data"))
    return probed.call("head_object", "ContentEncoding", Key="a")


def key_below_a_key(probed: Probed) -> Any:
    return [probed.call("put_object", Key=key, Body=b"x") for key in ("a", "a/b")]


# versitygw's are its differences from S3 (docs/adr/0004).
DIFFERENT: dict[str, tuple[Probe, dict[str, Any]]] = {
    "a copy that must not overwrite": (copy_onto, {"ours": "PreconditionFailed", "versitygw": "ok"}),
    "a create during which its key is deleted": (deleted_meanwhile, {"ours": "409", "versitygw": "200"}),
    "the encoding of what came in aws-chunked": (told_encoding, {"ours": None, "versitygw": "aws-chunked"}),
    "a key below another": (key_below_a_key, {"ours": ["ok", "ok"], "versitygw": ["ok", "ObjectParentIsFile"]}),
    "a name of 1,000 bytes": (
        lambda one: one.call("put_object", Key="a" * 1000),
        {"ours": "ok", "versitygw": "KeyTooLongError"},
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_the_servers_differ_here_and_as_is_known(probed: Probed, name: str, request: pytest.FixtureRequest) -> None:
    probe, expected = DIFFERENT[name]
    assert expected["ours"] != expected["versitygw"]
    assert probe(probed) == expected[request.node.callspec.params["probed"]]
