"""Bodies of uploads: aws-chunked framing, hashes and checksums, all of them verified before anything is stored."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from awscrt import checksums

from s3_faults.requests import S3Error


def _crc(compute: Callable[[bytes], int], size: int) -> Callable[[bytes], bytes]:
    return lambda data: compute(data).to_bytes(size, "big")


# S3's name of each checksum, in lower case as in headers -> its bytes.
ALGORITHMS: dict[str, Callable[[bytes], bytes]] = {
    "crc32": _crc(checksums.crc32, 4),
    "crc32c": _crc(checksums.crc32c, 4),
    "crc64nvme": _crc(checksums.crc64nvme, 8),
    "sha1": lambda data: hashlib.sha1(data).digest(),
    "sha256": lambda data: hashlib.sha256(data).digest(),
}
ADDED = "crc64nvme"  # by S3 itself where a request has none
PREFIX = "x-amz-checksum-"


def checksum(algorithm: str, data: bytes) -> str:
    """A checksum as S3 writes it: base64 of its big-endian bytes."""
    return base64.b64encode(ALGORITHMS[algorithm](data)).decode()


@dataclass(frozen=True)
class Payload:
    """What was uploaded, and its checksums: those that were sent, or the one that S3 adds."""

    data: bytes
    checksums: Mapping[str, str]


def read_payload(body: bytes, headers: Mapping[str, str]) -> Payload:
    """The content of a request's body; S3Error if anything that was said of it does not hold."""
    said = dict(headers)
    data = _check_hash(body, said)
    if "x-amz-decoded-content-length" in said and int(said["x-amz-decoded-content-length"]) != len(data):
        raise S3Error(400, "IncompleteBody", "You did not provide the number of bytes specified by the HTTP header.")
    if "content-md5" in said and base64.b64encode(hashlib.md5(data).digest()).decode() != said["content-md5"]:
        raise S3Error(400, "BadDigest", "The Content-MD5 you specified did not match what we received.")
    sent = checksums_in(said)
    for algorithm, value in sent.items():
        if checksum(algorithm, data) != value:
            raise bad_digest(algorithm)
    return Payload(data, sent or {ADDED: checksum(ADDED, data)})


def checksums_in(headers: Mapping[str, str]) -> dict[str, str]:
    """The checksums that headers or trailers name, by algorithm; S3Error for a value that is none."""
    found = {name: headers[PREFIX + name] for name in ALGORITHMS if PREFIX + name in headers}
    for name, value in found.items():
        if len(base64.b64decode(value)) != len(ALGORITHMS[name](b"")):
            raise S3Error(400, "InvalidRequest", f"Value for {PREFIX}{name} header is invalid.")
    return found


def bad_digest(algorithm: str) -> S3Error:
    """The refusal of data that has not the checksum that was given."""
    return S3Error(400, "BadDigest", f"The {algorithm.upper()} you specified did not match the calculated checksum.")


def _check_hash(body: bytes, said: dict[str, str]) -> bytes:
    """The data in `body`, whose trailers are added to `said`."""
    hashed = said.get("x-amz-content-sha256", "")
    if hashed == "STREAMING-UNSIGNED-PAYLOAD-TRAILER":
        return _unchunk(body, said)
    if hashed.startswith("STREAMING-"):
        raise S3Error(501, "NotImplemented", f"This server reads no {hashed}: send x-amz-content-sha256 without it.")
    if hashed != "UNSIGNED-PAYLOAD" and not re.fullmatch("[0-9a-f]{64}", hashed):
        raise S3Error(400, "InvalidArgument", "x-amz-content-sha256 must be UNSIGNED-PAYLOAD or a valid sha256 value.")
    if hashed not in ("UNSIGNED-PAYLOAD", hashlib.sha256(body).hexdigest()):
        raise S3Error(400, "XAmzContentSHA256Mismatch", "The provided 'x-amz-content-sha256' does not match.")
    return body


def _unchunk(body: bytes, said: dict[str, str]) -> bytes:
    """Undo aws-chunked: `<size in hex>\\r\\n<data>\\r\\n` ... `0\\r\\n`, then trailers as headers are written."""
    pieces, place = [], 0
    while True:
        end = body.find(b"\r\n", place)
        line = body[place : max(end, place)].partition(b";")[0]
        if not re.fullmatch(rb"[0-9a-fA-F]{1,16}", line):
            raise S3Error(400, "IncompleteBody", "The body ends within its chunks.")
        place, size = end + 2, int(line, 16)
        if not size:
            break
        pieces.append(body[place : place + size])
        if body[place + size : place + size + 2] != b"\r\n":
            raise S3Error(400, "IncompleteBody", "The body ends within a chunk.")
        place += size + 2
    trailers = dict(line.split(":", 1) for line in body[place:].decode("ascii").split("\r\n") if ":" in line)
    found = {name.strip().lower(): value.strip() for name, value in trailers.items()}
    announced = {name.strip().lower() for name in said.get("x-amz-trailer", "").split(",") if name.strip()}
    if announced != found.keys():
        raise S3Error(400, "MalformedTrailerError", "The request's trailers are not those that were announced.")
    said.update(found)
    return b"".join(pieces)
