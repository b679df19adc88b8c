"""Listings: ListObjectsV2 in pages, ListBuckets, ListMultipartUploads, ListParts."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from urllib.parse import quote
from xml.sax.saxutils import escape

from faulty_http import Answer
from s3_faults.bucket import Bucket, Stored
from s3_faults.requests import Call, S3Error, xml_answer

PAGE = 1000  # S3's largest


def list_objects(bucket: Bucket, call: Call, behind: int = 0) -> Answer:
    """ListObjectsV2, of the bucket as it was before the last `behind` changes."""
    query = call.query
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    most = min(PAGE, int(query.get("max-keys", PAGE)))
    after = _opened(query["continuation-token"]) if "continuation-token" in query else query.get("start-after", "")
    page: dict[str, Stored | None] = {}  # keys, and common prefixes without an object
    truncated = False
    for key, stored in bucket.listed(behind).items():
        if not key.startswith(prefix):
            continue
        cut = key.find(delimiter, len(prefix)) if delimiter else -1
        name = key if cut < 0 else key[: cut + len(delimiter)]
        if name.encode() <= after.encode() or name in page:
            continue
        if len(page) == most:
            truncated = most > 0
            break
        page[name] = stored if cut < 0 else None
    return xml_answer(_listing(call, page, truncated))


def _listing(call: Call, page: Mapping[str, Stored | None], truncated: bool) -> str:
    coded = call.query.get("encoding-type") == "url"

    def text(value: str) -> str:
        return quote(value, safe="/") if coded else escape(value)

    told = [f"<Name>{escape(call.bucket)}</Name><KeyCount>{len(page)}</KeyCount>"]
    told.append(f"<MaxKeys>{call.query.get('max-keys', PAGE)}</MaxKeys>")
    told += [f"<{tag}>{text(call.query[name])}</{tag}>" for name, tag in _ECHOED.items() if name in call.query]
    told.append("<EncodingType>url</EncodingType>" if coded else "")
    told.append(f"<IsTruncated>{str(truncated).lower()}</IsTruncated>")
    if truncated:
        told.append(f"<NextContinuationToken>{_token(max(page, key=str.encode))}</NextContinuationToken>")
    for name, stored in page.items():
        if stored is None:
            told.append(f"<CommonPrefixes><Prefix>{text(name)}</Prefix></CommonPrefixes>")
        else:
            told.append(f"<Contents><Key>{text(name)}</Key>{_facts(stored)}</Contents>")
    return f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{"".join(told)}</ListBucketResult>'


_ECHOED = {"prefix": "Prefix", "delimiter": "Delimiter", "start-after": "StartAfter"}


def list_buckets(names: Iterable[str]) -> Answer:
    """ListBuckets."""
    told = "".join(f"<Bucket><Name>{escape(name)}</Name></Bucket>" for name in sorted(names))
    return xml_answer(f"<ListAllMyBucketsResult><Buckets>{told}</Buckets></ListAllMyBucketsResult>")


def list_uploads(bucket: Bucket, call: Call) -> Answer:
    """ListMultipartUploads, all on one page."""
    prefix = call.query.get("prefix", "")
    told = [
        f"<Upload><Key>{escape(one.key)}</Key><UploadId>{name}</UploadId></Upload>"
        for name, one in bucket.uploads().items()
        if one.key.startswith(prefix)
    ]
    return xml_answer(
        f"<ListMultipartUploadsResult><Bucket>{escape(call.bucket)}</Bucket><IsTruncated>false</IsTruncated>"
        f"{''.join(told)}</ListMultipartUploadsResult>"
    )


def list_parts(bucket: Bucket, call: Call) -> Answer:
    """ListParts, all on one page."""
    with bucket.upload(call.query["uploadId"], call.key) as upload:
        parts = sorted(upload.parts.items())
    told = [f"<Part><PartNumber>{number}</PartNumber>{_facts(part)}</Part>" for number, part in parts]
    return xml_answer(
        f"<ListPartsResult><Key>{escape(call.key)}</Key><UploadId>{call.query['uploadId']}</UploadId>"
        f"<IsTruncated>false</IsTruncated>{''.join(told)}</ListPartsResult>"
    )


def _facts(stored: Stored) -> str:
    return (
        f"<LastModified>{stored.modified:%Y-%m-%dT%H:%M:%S.000Z}</LastModified><ETag>{escape(stored.etag)}</ETag>"
        f"<Size>{len(stored.data)}</Size>"
    )


def _token(last: str) -> str:
    return base64.urlsafe_b64encode(last.encode()).decode()


def _opened(token: str) -> str:
    try:
        return base64.urlsafe_b64decode(token).decode()
    except ValueError:
        raise S3Error(400, "InvalidArgument", "The continuation token provided is incorrect") from None
