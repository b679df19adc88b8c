"""One S3 library in a process of its own: puts and gets objects on request and says what that cost.

    python store_peers.py <peer> <bucket> <bytes of an object>

Reads lines such as `put 8` and `get 8` from stdin, and answers each with a line of JSON: seconds, processor seconds of
all its threads, bytes. Every library is as its documentation begins; credentials and address come from the AWS
environment.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, Protocol


class Peer(Protocol):
    """A library: both methods return when the object is stored, or all of its bytes are in memory."""

    def put(self, key: str, data: bytes) -> None:
        """Store an object."""
        ...

    def get(self, key: str, size: int) -> None:
        """Read one of so many bytes."""
        ...


class Ours:
    """The product's store: CRC64NVME both ways, into one buffer as the trainer's are."""

    def __init__(self, bucket: str, size: int) -> None:
        from finetune_trainer.store import open_store

        self._store = open_store(f"s3://{bucket}")
        self._written: tuple[int, int] | None = None
        self._held = bytearray(os.urandom(1) * size)

    def put(self, key: str, data: bytes) -> None:
        from finetune_trainer.store.checksums import crc64nvme

        self._written = self._written or (len(data), crc64nvme(data))
        self._store.put(key, data)

    def get(self, key: str, size: int) -> None:
        assert self._store.read_into(key, memoryview(self._held)[:size]) == self._written


class Boto3:
    """boto3: CRC32 on the way up, the stored checksum on the way down."""

    def __init__(self, bucket: str, size: int) -> None:
        import boto3

        self._client: Any = boto3.client("s3")
        self._bucket = bucket

    def put(self, key: str, data: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=key, Body=data)

    def get(self, key: str, size: int) -> None:
        assert len(self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()) == size


class Obstore:
    """obstore (Rust's object_store): no checksum either way."""

    def __init__(self, bucket: str, size: int) -> None:
        options = {"allow_http": True}
        store: Any = import_module("obstore.store")
        self._store = store.S3Store(bucket, endpoint=os.environ["AWS_ENDPOINT_URL"], client_options=options)

    def put(self, key: str, data: bytes) -> None:
        self._store.put(key, data, use_multipart=False)

    def get(self, key: str, size: int) -> None:
        assert len(self._store.get(key).bytes()) == size


class S3TorchConnector:
    """s3torchconnector (AWS' C runtime), as its checkpoints use it."""

    def __init__(self, bucket: str, size: int) -> None:
        library: Any = import_module("s3torchconnector")
        region, endpoint = os.environ["AWS_DEFAULT_REGION"], os.environ["AWS_ENDPOINT_URL"]
        config = library.S3ClientConfig(force_path_style=True)
        self._store = library.S3Checkpoint(region=region, endpoint=endpoint, s3client_config=config)
        self._bucket = bucket

    def put(self, key: str, data: bytes) -> None:
        with self._store.writer(f"s3://{self._bucket}/{key}") as writer:
            writer.write(data)

    def get(self, key: str, size: int) -> None:
        with self._store.reader(f"s3://{self._bucket}/{key}") as reader:
            assert len(reader.read()) == size


PEERS: dict[str, Callable[[str, int], Peer]] = {
    "ours": Ours,
    "boto3": Boto3,
    "obstore": Obstore,
    "s3torchconnector": S3TorchConnector,
}


def answers(peer: Peer, name: str, size: int, orders: Iterator[str]) -> Iterator[dict[str, float]]:
    """Do each order, as often as it says, and tell what it cost."""
    data = os.urandom(size)
    for order in orders:
        verb, count = order.split()
        started, cpu = time.monotonic(), time.process_time()
        for number in range(int(count)):
            if verb == "put":
                peer.put(f"{name}-{number}", data)
            else:
                peer.get(f"{name}-{number}", size)
        seconds, cpu = time.monotonic() - started, time.process_time() - cpu
        yield {"seconds": seconds, "cpu": cpu, "size": int(count) * size}


def main() -> None:
    """Serve until stdin ends."""
    name, bucket, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
    for answer in answers(PEERS[name](bucket, size), name, size, sys.stdin):
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
