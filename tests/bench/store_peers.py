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
from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

KEYS = 4  # objects that are put again and again; an order of so many puts or gets meets each once


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


class Bench(Protocol):
    """What is measured: `do` alone, which returns the bytes that it moved."""

    def prepare(self, verb: str) -> None:
        """Before it."""
        ...

    def do(self, verb: str) -> int:
        """Do what the verb says, once."""
        ...

    def settle(self, verb: str) -> None:
        """After it."""
        ...


class Objects:
    """Puts the same objects again and again, and gets them."""

    def __init__(self, peer: Peer, name: str, size: int) -> None:
        self._peer, self._name, self._size = peer, name, size
        self._data = os.urandom(size)
        self._done = {"put": 0, "get": 0}

    def prepare(self, verb: str) -> None:
        """Nothing is to be prepared."""

    def do(self, verb: str) -> int:
        """Put or get one object."""
        key = f"{self._name}-{self._done[verb] % KEYS}"
        self._done[verb] += 1
        if verb == "put":
            self._peer.put(key, self._data)
        else:
            self._peer.get(key, self._size)
        return self._size

    def settle(self, verb: str) -> None:
        """Nothing is left to be done."""


def serve(bench: Bench) -> None:
    """Do each order of stdin, as often as it says, and print what it cost."""
    for order in sys.stdin:
        verb, count = order.split()
        cost = {"seconds": 0.0, "cpu": 0.0, "size": 0}
        for _ in range(int(count)):
            bench.prepare(verb)
            started, cpu = time.monotonic(), time.process_time()
            cost["size"] += bench.do(verb)
            cost["seconds"] += time.monotonic() - started
            cost["cpu"] += time.process_time() - cpu
            bench.settle(verb)
        print(json.dumps(cost), flush=True)


def main() -> None:
    """Serve until stdin ends."""
    name, bucket, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
    serve(Objects(PEERS[name](bucket, size), name, size))


if __name__ == "__main__":
    main()
