"""How many requests a client may send again: as many as all its connections need, not one more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from botocore.retries import quota, standard

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

DEAREST_RETRY = 14
"""Tokens that botocore takes for a retry after anything but throttling, which costs 5; all but the last stay with it
until other requests succeed at once."""


def widen_retries(client: S3Client, attempts: int, connections: int) -> None:
    """Let every one of so many connections make all its attempts at the same time.

    botocore's own bucket, 500 tokens for a client, is empty after 35 retries: eight threads that read while their
    store restarts give up within a second of what ten attempts are meant to wait for.
    """
    events = client.meta.events
    events.unregister("needs-retry.s3", unique_id="retry-config-s3")
    handler: Any = standard.register_retry_handler(client, max_attempts=attempts)
    handler._retry_quota._quota = quota.RetryQuota(connections * (attempts - 1) * DEAREST_RETRY)
