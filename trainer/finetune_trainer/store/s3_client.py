"""The S3 client: signing, retries, time limits and checksums as a checkpoint store needs them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import boto3
import botocore.session
from botocore.config import Config

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# Ten attempts wait up to 25 s after connection errors and up to 110 s under throttling (botocore's "standard" mode,
# full jitter): long enough for a restart of the store or a burst of SlowDown, short enough to fail within minutes.
MAX_ATTEMPTS = 10
CONNECT_SECONDS = 5.0
# A server may take this long before the first byte of an answer to a 5 GiB PUT.
READ_SECONDS = 120.0
CONNECTIONS = 32


def make_client() -> S3Client:
    """A new client from the usual AWS environment and profile; AWS_MAX_ATTEMPTS or the profile may change the retries.

    Raises botocore's errors for a profile, an endpoint or a region that cannot be.
    """
    core = botocore.session.Session()
    attempts = core.get_config_variable("max_attempts") or MAX_ATTEMPTS
    config = Config(
        signature_version="s3v4",
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        tcp_keepalive=True,
        max_pool_connections=CONNECTIONS,
        # We send CRC64NVME ourselves; the default extra CRC32 breaks older S3-compatible stores (boto3 issue 4392).
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.session.Session(botocore_session=core).client("s3", config=config)


def attempts_of(client: S3Client) -> int:
    """How often the client tries a request, the first time included."""
    retries: dict[str, int] = client.meta.config.retries  # type: ignore[attr-defined]  # set from our Config
    return retries["total_max_attempts"]


def redacted(text: str) -> str:
    """`text` without the user and password that an address may carry."""
    return re.sub(r"//[^/@\s]+@", "//", text)
