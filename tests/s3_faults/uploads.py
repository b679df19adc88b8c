"""Multipart uploads, with S3's rules for parts and for completing."""

from __future__ import annotations

import base64
import hashlib
from itertools import pairwise
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from faulty_http import Answer
from s3_faults.bucket import Bucket, Condition, Stored, Upload, etag_of
from s3_faults.objects import checksum_headers, kept_headers, parse_xml
from s3_faults.payloads import ADDED, ALGORITHMS, bad_digest, checksum, checksums_in, read_payload
from s3_faults.requests import Call, S3Error, xml_answer

SMALLEST_PART = 5 * 2**20
MOST_PARTS = 10_000
WHOLE_ONLY, PARTS_ONLY = ("crc64nvme",), ("sha1", "sha256")


def create_upload(bucket: Bucket, call: Call) -> Answer:
    """CreateMultipartUpload."""
    algorithm = call.headers.get("x-amz-checksum-algorithm", "").lower()
    if algorithm and algorithm not in ALGORITHMS:
        raise S3Error(400, "InvalidRequest", f"Checksum algorithm {algorithm!r} is not supported.")
    whole = not algorithm or algorithm in WHOLE_ONLY
    kind = call.headers.get("x-amz-checksum-type", "FULL_OBJECT" if whole else "COMPOSITE").upper()
    if (kind == "COMPOSITE" and whole) or (kind == "FULL_OBJECT" and algorithm in PARTS_ONLY):
        raise S3Error(400, "InvalidRequest", f"The {kind} checksum type cannot be used with {algorithm}.")
    name = bucket.start(Upload(call.key, algorithm, kind, kept_headers(call)))
    return xml_answer(
        f"<InitiateMultipartUploadResult><Bucket>{escape(call.bucket)}</Bucket><Key>{escape(call.key)}</Key>"
        f"<UploadId>{name}</UploadId></InitiateMultipartUploadResult>"
    )


def upload_part(bucket: Bucket, call: Call, body: bytes) -> Answer:
    """UploadPart."""
    number = int(call.query["partNumber"])
    if not 1 <= number <= MOST_PARTS:
        raise S3Error(400, "InvalidArgument", f"Part number must be an integer between 1 and {MOST_PARTS}.")
    payload = read_payload(body, call.headers)
    part = Stored(payload.data, etag_of(payload.data), payload.checksums)
    with bucket.upload(call.query["uploadId"], call.key) as upload:
        if upload.algorithm and upload.algorithm not in part.checksums:
            raise S3Error(400, "InvalidRequest", f"Checksum type mismatch occurred, expected {upload.algorithm}.")
        upload.parts[number] = part
    return Answer(200, [("ETag", part.etag), *checksum_headers(part)[:-1]], b"")


def abort_upload(bucket: Bucket, call: Call) -> Answer:
    """AbortMultipartUpload."""
    bucket.abort(call.query["uploadId"], call.key)
    return Answer(204, [], b"")


def complete_upload(bucket: Bucket, call: Call, body: bytes, condition: Condition) -> Answer:
    """CompleteMultipartUpload; one that is repeated is answered as it was."""
    name = call.query["uploadId"]
    etag = bucket.finished(name, call.key)
    if etag is None:
        root = parse_xml(body, "CompleteMultipartUpload")
        with bucket.upload(name, call.key) as upload:
            stored = _assembled(upload, _chosen(upload, root.findall("Part")))
            _check_whole(call, stored)
            bucket.finish(name, stored, condition)
        etag = stored.etag
    return xml_answer(
        f"<CompleteMultipartUploadResult><Bucket>{escape(call.bucket)}</Bucket><Key>{escape(call.key)}</Key>"
        f"<ETag>{escape(etag)}</ETag></CompleteMultipartUploadResult>"
    )


def _chosen(upload: Upload, named: list[ElementTree.Element]) -> list[Stored]:
    """The parts that are named, if they may become an object."""
    numbers = [int(part.findtext("PartNumber") or 0) for part in named]
    if not numbers:
        raise S3Error(400, "MalformedXML", "You must specify at least one part")
    if any(later <= earlier for earlier, later in pairwise(numbers)):
        raise S3Error(400, "InvalidPartOrder", "The list of parts was not in ascending order.")
    chosen = []
    for number, part in zip(numbers, named, strict=True):
        found = upload.parts.get(number)
        if found is None or found.etag.strip('"') != (part.findtext("ETag") or "").strip('"'):
            raise S3Error(400, "InvalidPart", f"Part {number} could not be found, or has another entity tag.")
        said = {name: value for name in ALGORITHMS if (value := part.findtext(f"Checksum{name.upper()}"))}
        if any(checksum(name, found.data) != value for name, value in said.items()):
            raise S3Error(400, "InvalidPart", f"Part {number} has another checksum.")
        chosen.append(found)
    if any(len(part.data) < SMALLEST_PART for part in chosen[:-1]):
        raise S3Error(400, "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size")
    return chosen


def _assembled(upload: Upload, parts: list[Stored]) -> Stored:
    data = b"".join(part.data for part in parts)
    digests = b"".join(bytes.fromhex(part.etag.strip('"')) for part in parts)
    etag = f'"{hashlib.md5(digests).hexdigest()}-{len(parts)}"'
    algorithm = upload.algorithm or ADDED
    if upload.checksum_type == "FULL_OBJECT":
        return Stored(data, etag, {algorithm: checksum(algorithm, data)}, headers=upload.headers)
    joined = b"".join(base64.b64decode(part.checksums[algorithm]) for part in parts)
    composite = f"{checksum(algorithm, joined)}-{len(parts)}"
    return Stored(data, etag, {algorithm: composite}, upload.checksum_type, upload.headers)


def _check_whole(call: Call, stored: Stored) -> None:
    """Refuse an object that is not what the client says it has sent."""
    size = call.headers.get("x-amz-mp-object-size")
    if size is not None and int(size) != len(stored.data):
        raise S3Error(400, "InvalidRequest", f"The object has {len(stored.data)} bytes, not {size}.")
    if stored.checksum_type == "FULL_OBJECT":
        for name, value in checksums_in(call.headers).items():
            if checksum(name, stored.data) != value:
                raise bad_digest(name)
