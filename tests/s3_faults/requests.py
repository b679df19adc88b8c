"""A request as S3 understands it: which operation, on which bucket and key; and how it is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

from faulty_http import Answer


class Operation(StrEnum):
    """What the server can do, by S3's names."""

    LIST_BUCKETS = "ListBuckets"
    CREATE_BUCKET = "CreateBucket"
    HEAD_BUCKET = "HeadBucket"
    LIST = "ListObjectsV2"
    PUT = "PutObject"
    COPY = "CopyObject"
    GET = "GetObject"
    HEAD = "HeadObject"
    DELETE = "DeleteObject"
    DELETE_MANY = "DeleteObjects"
    CREATE_UPLOAD = "CreateMultipartUpload"
    UPLOAD_PART = "UploadPart"
    COMPLETE_UPLOAD = "CompleteMultipartUpload"
    ABORT_UPLOAD = "AbortMultipartUpload"
    LIST_UPLOADS = "ListMultipartUploads"
    LIST_PARTS = "ListParts"
    UNKNOWN = "(no operation)"


# What else S3 has under these methods is not here: subresources such as ?acl, ?versions or ?location.
_KEYED = {
    ("PUT", ""): Operation.PUT,
    ("PUT", "partNumber"): Operation.UPLOAD_PART,
    ("GET", ""): Operation.GET,
    ("GET", "uploadId"): Operation.LIST_PARTS,
    ("HEAD", ""): Operation.HEAD,
    ("DELETE", ""): Operation.DELETE,
    ("DELETE", "uploadId"): Operation.ABORT_UPLOAD,
    ("POST", "uploads"): Operation.CREATE_UPLOAD,
    ("POST", "uploadId"): Operation.COMPLETE_UPLOAD,
}
_BUCKET = {
    ("PUT", ""): Operation.CREATE_BUCKET,
    ("HEAD", ""): Operation.HEAD_BUCKET,
    ("GET", "list-type"): Operation.LIST,
    ("GET", "uploads"): Operation.LIST_UPLOADS,
    ("POST", "delete"): Operation.DELETE_MANY,
}
_MARKS = ("partNumber", "uploadId", "uploads", "list-type", "delete")
# Queries that change what an operation does into something that is not here.
_STRANGERS = {"acl", "attributes", "location", "policy", "retention", "tagging", "versionId", "versioning", "versions"}


class S3Error(Exception):
    """An answer that refuses a request."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{code} ({status}): {message}")
        self.status, self.code, self.message = status, code, message

    def answer(self) -> Answer:
        """The answer in XML."""
        body = f"<Error><Code>{self.code}</Code><Message>{escape(self.message)}</Message></Error>"
        return xml_answer(body, self.status)


def xml_answer(body: str, status: int = 200) -> Answer:
    """An answer of one XML element."""
    return Answer(
        status, [("Content-Type", "application/xml")], f'<?xml version="1.0" encoding="UTF-8"?>\n{body}'.encode()
    )


@dataclass(frozen=True)
class Call:
    """A request without its body; header names are in lower case, queries and key decoded."""

    operation: Operation
    bucket: str
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]

    @classmethod
    def of(cls, method: str, target: str, headers: Mapping[str, str], domain: str) -> Call:
        """The call of an HTTP request; below `domain`, host names begin with a bucket's name."""
        parts = urlsplit(f"//host{target}" if target.startswith("/") else target)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        host = headers.get("host", "").rpartition(":")[0] or headers.get("host", "")
        path = unquote(parts.path.removeprefix("/"))
        if domain and host.endswith(f".{domain}"):
            bucket, key = host.removesuffix(f".{domain}"), path
        else:
            bucket, _, key = path.partition("/")
        return cls(_operation(method, bucket, key, query, headers), bucket, key, query, headers)


def _operation(method: str, bucket: str, key: str, query: Mapping[str, str], headers: Mapping[str, str]) -> Operation:
    if query.keys() & _STRANGERS:
        return Operation.UNKNOWN
    if not bucket:
        return Operation.LIST_BUCKETS if method == "GET" else Operation.UNKNOWN
    mark = next((mark for mark in _MARKS if mark in query), "")
    found = (_KEYED if key else _BUCKET).get((method, mark), Operation.UNKNOWN)
    if "x-amz-copy-source" not in headers:
        return found
    return Operation.COPY if found is Operation.PUT else Operation.UNKNOWN
