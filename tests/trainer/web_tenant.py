"""A tenant whose credentials come by web identity: a token in a file, exchanged at a real STS behind a proxy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from faulty_proxy import FaultyProxy, faulty_proxy
from issuer import Issuer
from s3_server import REGION, S3Server

ROLE = "arn:aws:iam::000000000000:role/team-a"
AUDIENCE = "sts.test"
SUBJECT = "system:serviceaccount:team-a:trainer"
MINE, OTHERS = "s3://web-identity-a/runs", "s3://web-identity-b/runs"


@dataclass(frozen=True)
class Tenant:
    """A pod's token file, and who signs its tokens; `proxy` is the way to the STS."""

    file: Path
    issuer: Issuer
    server: S3Server
    proxy: FaultyProxy

    def exchanges(self) -> int:
        """How often the STS was asked."""
        return self.proxy.count("POST")


@contextmanager
def web_tenant(s3: S3Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tenant]:
    """Give this process what the operator, or a webhook, gives a pod: no key, a token, a role."""
    issuer = Issuer()
    s3.trust(issuer.name, AUDIENCE, issuer.jwks)
    s3.add_user("b", "web-identity-b")
    s3.add_role(ROLE, s3.add_user("a", "web-identity-a").access, [SUBJECT])
    file = folder / "token"
    file.write_text(issuer.token(SUBJECT, AUDIENCE))
    with faulty_proxy(s3.port) as proxy:
        variables = {
            "AWS_ENDPOINT_URL_S3": s3.endpoint,
            "AWS_ENDPOINT_URL_STS": proxy.endpoint,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ROLE_ARN": ROLE,
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(file),
            "AWS_MAX_ATTEMPTS": "2",
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield Tenant(file, issuer, s3, proxy)
    emptied(s3.client(), "web-identity-a")


def emptied(client: Any, bucket: str) -> None:
    """Leave nothing in `bucket` for the next test, which has the same server."""
    for item in client.list_objects_v2(Bucket=bucket).get("Contents", ()):
        client.delete_object(Bucket=bucket, Key=item["Key"])
