"""Operations on whole objects: put, copy, get, head, delete."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from faulty_http import Answer
from s3_faults.bucket import Bucket, Condition, Stored, etag_of, failed
from s3_faults.payloads import PREFIX, read_payload
from s3_faults.requests import Call, S3Error, xml_answer

KEPT = ("content-type", "content-encoding", "content-disposition", "content-language", "cache-control", "expires")
TYPE = "binary/octet-stream"  # of S3, where none was given
MOST_DELETED = 1000


def put_object(bucket: Bucket, call: Call, body: bytes, condition: Condition) -> Answer:
    """PutObject."""
    payload = read_payload(body, call.headers)
    stored = Stored(payload.data, etag_of(payload.data), payload.checksums, headers=kept_headers(call))
    bucket.put(call.key, stored, condition)
    return Answer(200, [("ETag", stored.etag), *checksum_headers(stored)], b"")


def copy_object(bucket: Bucket, source: Bucket, call: Call, condition: Condition) -> Answer:
    """CopyObject of `copied_key` in `source`."""
    found = source.get(copied(call)[1])
    headers = kept_headers(call) if call.headers.get("x-amz-metadata-directive") == "REPLACE" else found.headers
    stored = Stored(found.data, etag_of(found.data), found.checksums, headers=headers)
    bucket.put(call.key, stored, condition)
    return xml_answer(
        f"<CopyObjectResult><LastModified>{stored.modified:%Y-%m-%dT%H:%M:%S.000Z}</LastModified>"
        f"<ETag>{escape(stored.etag)}</ETag></CopyObjectResult>"
    )


def copied(call: Call) -> tuple[str, str]:
    """Bucket and key that a CopyObject names as its source."""
    bucket, _, key = unquote(call.headers["x-amz-copy-source"]).removeprefix("/").partition("/")
    return bucket, key


def get_object(bucket: Bucket, call: Call) -> Answer:
    """GetObject, or HeadObject where the handler drops the body."""
    found = bucket.get(call.key)
    if (refused := _unmet(call.headers, found)) is not None:
        return refused
    asked = _range(call.headers.get("range", ""), len(found.data))
    start, stop = asked or (0, len(found.data))
    headers = [
        ("ETag", found.etag),
        ("Last-Modified", f"{found.modified:%a, %d %b %Y %H:%M:%S GMT}"),
        ("Accept-Ranges", "bytes"),
        ("Content-Type", TYPE),
        *found.headers.items(),
        ("Content-Length", str(stop - start)),
    ]
    if stop - start == len(found.data) and call.headers.get("x-amz-checksum-mode", "").upper() == "ENABLED":
        headers += checksum_headers(found)
    if asked is None:
        return Answer(200, headers, found.data)
    headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{len(found.data)}"))
    return Answer(206, headers, found.data[start:stop])


def delete_object(bucket: Bucket, call: Call) -> Answer:
    """DeleteObject."""
    bucket.delete(call.key, call.headers.get("if-match", ""))
    return Answer(204, [], b"")


def delete_objects(bucket: Bucket, call: Call, body: bytes) -> Answer:
    """DeleteObjects."""
    payload = read_payload(body, call.headers)
    if not call.headers.keys() & {"content-md5", *(name for name in call.headers if name.startswith(PREFIX))}:
        raise S3Error(400, "InvalidRequest", "Missing required header for this request: Content-MD5")
    root = parse_xml(payload.data, "Delete")
    quiet = (root.findtext("Quiet") or "").lower() == "true"
    entries = root.findall("Object")
    if not 0 < len(entries) <= MOST_DELETED:
        raise S3Error(400, "MalformedXML", f"Name 1 to {MOST_DELETED} objects.")
    told = []
    for entry in entries:
        key = entry.findtext("Key") or ""
        try:
            bucket.delete(key, entry.findtext("ETag") or "")
        except S3Error as error:
            told.append(f"<Error><Key>{escape(key)}</Key><Code>{error.code}</Code></Error>")
        else:
            told += [] if quiet else [f"<Deleted><Key>{escape(key)}</Key></Deleted>"]
    return xml_answer(f"<DeleteResult>{''.join(told)}</DeleteResult>")


def parse_xml(data: bytes, tag: str) -> ElementTree.Element:
    """The element `tag` that a body is, names without their namespace; S3Error if it is none."""
    try:
        root = ElementTree.fromstring(re.sub(rb'\sxmlns="[^"]*"', b"", data, count=1))
    except ElementTree.ParseError:
        raise S3Error(400, "MalformedXML", "The XML you provided was not well-formed.") from None
    if root.tag != tag:
        raise S3Error(400, "MalformedXML", f"The XML is a {root.tag}, not a {tag}.")
    return root


def kept_headers(call: Call) -> dict[str, str]:
    """What is stored of an upload's headers."""
    kept = {name: value for name, value in call.headers.items() if name in KEPT or name.startswith("x-amz-meta-")}
    coded = [one.strip() for one in kept.pop("content-encoding", "").split(",")]
    left = [one for one in coded if one and one != "aws-chunked"]  # the framing is no property of the object
    return kept | ({"content-encoding": ",".join(left)} if left else {})


def checksum_headers(stored: Stored) -> list[tuple[str, str]]:
    """What tells an object's checksums."""
    found = [(PREFIX + name, value) for name, value in stored.checksums.items()]
    return [*found, ("x-amz-checksum-type", stored.checksum_type)]


def _unmet(headers: Mapping[str, str], found: Stored) -> Answer | None:
    if "if-match" in headers and headers["if-match"].strip('"') not in ("*", found.etag.strip('"')):
        raise failed()
    if headers.get("if-none-match", "").strip('"') in ("*", found.etag.strip('"')):
        return Answer(304, [("ETag", found.etag)], b"")
    return None


def _range(asked: str, size: int) -> tuple[int, int] | None:
    """Start and stop of the bytes that are asked for; None for what is no range, and means all of them (RFC 9110)."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", asked)
    if found is None or not (found[1] or found[2]) or (found[1] and found[2] and int(found[2]) < int(found[1])):
        return None
    start = int(found[1]) if found[1] else max(0, size - int(found[2]))
    stop = min(size, int(found[2]) + 1) if found[1] and found[2] else size
    if start >= stop:
        raise S3Error(416, "InvalidRange", "The requested range is not satisfiable")
    return start, stop
