"""What the `bucket` fixture gives a test: an empty bucket on a real S3 server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from s3_server import S3Server


@dataclass(frozen=True)
class Bucket:
    """An empty bucket on the test server; `env` is what a child process needs to reach it."""

    name: str
    env: dict[str, str]
    client: Any  # a boto3 S3 client, whose class is made at run time
    server: S3Server

    @property
    def uri(self) -> str:
        return f"s3://{self.name}"

    def objects(self) -> dict[str, bytes]:
        """What is really in it, past any proxy."""
        listed = self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return {one["Key"]: self.client.get_object(Bucket=self.name, Key=one["Key"])["Body"].read() for one in listed}
