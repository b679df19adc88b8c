"""Signature Version 4 in the Authorization header, computed again by botocore's own signer and compared."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.compat import HTTPHeaders
from botocore.credentials import Credentials

from s3_faults.requests import S3Error

AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<access>[^/]+)/(?P<day>\d{8})/(?P<region>[^/]+)/s3/aws4_request,\s*"
    r"SignedHeaders=(?P<signed>[^,]+),\s*Signature=(?P<signature>[0-9a-f]{64})"
)
TIME = "%Y%m%dT%H%M%SZ"
SKEW = timedelta(minutes=15)  # of S3
# What nobody may change on the way; the rest of x-amz-* has to be signed as well.
ALWAYS_SIGNED = {"host", "x-amz-date", "x-amz-content-sha256"}


class _Signer(S3SigV4Auth):
    """botocore's, but over the headers that a request says were signed."""

    def __init__(self, credentials: Credentials, region: str, signed: list[str]) -> None:
        super().__init__(credentials, "s3", region)
        self._signed = signed

    def headers_to_sign(self, request: AWSRequest) -> HTTPHeaders:
        found = HTTPHeaders()
        for name in self._signed:
            found[name] = request.headers.get(name, "")
        return found


def check_signature(
    method: str, target: str, headers: Mapping[str, str], keys: Mapping[str, str], now: datetime
) -> None:
    """Raise S3Error unless the request was signed by the secret of one of `keys`, less than 15 minutes from `now`.

    Header names are in lower case.
    """
    claimed = AUTHORIZATION.fullmatch(headers.get("authorization", ""))
    if claimed is None:
        raise S3Error(403, "AccessDenied", "Anonymous access is forbidden for this operation.")
    if claimed["access"] not in keys:
        raise S3Error(403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.")
    time = headers.get("x-amz-date", "")
    if not time.startswith(claimed["day"]) or abs(datetime.strptime(time, TIME).replace(tzinfo=UTC) - now) > SKEW:
        raise S3Error(403, "RequestTimeTooSkewed", "The difference between the request time and now is too large.")
    signed = claimed["signed"].split(";")
    needed = ALWAYS_SIGNED | {name for name in headers if name.startswith("x-amz-")}
    if missing := needed - set(signed):
        raise S3Error(403, "AccessDenied", f"There were headers present which were not signed: {sorted(missing)}")
    request = AWSRequest(method=method, url=f"http://{headers['host']}{target}", headers=dict(headers))
    request.context["timestamp"] = time
    signer = _Signer(Credentials(claimed["access"], keys[claimed["access"]]), claimed["region"], signed)
    text = signer.string_to_sign(request, signer.canonical_request(request))
    if not hmac.compare_digest(signer.signature(text, request), claimed["signature"]):
        raise S3Error(403, "SignatureDoesNotMatch", "The request signature we calculated does not match.")
