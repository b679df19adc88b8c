"""Folders to and from a bucket, for the demo over S3; endpoint and credentials come from the usual AWS environment."""

from __future__ import annotations

from pathlib import Path

import boto3


def upload(folder: Path, bucket: str, prefix: str) -> None:
    """Put every file of `folder` under `prefix`, except those that are there in the same size."""
    client = boto3.client("s3")
    there = sizes(bucket, prefix)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        key = f"{prefix}/{path.relative_to(folder).as_posix()}"
        if there.get(key) != path.stat().st_size:
            client.upload_file(str(path), bucket, key)


def download(bucket: str, prefix: str, folder: Path) -> None:
    """Get every object under `prefix` into `folder`, over what is there."""
    client = boto3.client("s3")
    for key in sizes(bucket, prefix):
        path = folder / key.removeprefix(f"{prefix}/")
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(bucket, key, str(path))


def sizes(bucket: str, prefix: str) -> dict[str, int]:
    """Key and size in bytes of every object under `prefix`."""
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    return {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", [])}
