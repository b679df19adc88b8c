"""One way of others to keep checkpoints in S3, in a process of its own: saves and loads on request, and says what came.

    python fault_peers.py <peer> <folder>

Reads lines such as `save s3://bucket/name` and `load s3://bucket/name` from stdin, and answers each with a line of
JSON: `came` is "right", "wrong" for a load of other bytes, or "told" with the error. Every library is as its
documentation begins; credentials and address come from the AWS environment.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

CONTENT = random.Random(0).randbytes(12 * 2**20)
"""More than one part of either library."""


class Peer(Protocol):
    """Both methods return when the library says that it is done, and raise what it raises."""

    def save(self, uri: str) -> None:
        """Keep CONTENT as a checkpoint."""
        ...

    def load(self, uri: str) -> bytes:
        """What a checkpoint holds."""
        ...


class RayTrain:
    """What `ray.train.report` does with a checkpoint folder, and `Checkpoint.as_directory` with one in the store."""

    def __init__(self, folder: Path) -> None:
        self._storage: Any = import_module("ray.train.v2._internal.execution.storage")
        self._folder = folder

    def save(self, uri: str) -> None:
        source = self._folder / "checkpoint"
        source.mkdir(exist_ok=True)
        (source / "state.bin").write_bytes(CONTENT)
        fs, path = self._place(uri)  # from here on as StorageContext.persist_current_checkpoint of Ray 2.60
        fs.create_dir(path)
        self._storage._pyarrow_fs_copy_files(str(source), path, destination_filesystem=fs)

    def load(self, uri: str) -> bytes:
        target = self._folder / uri.rpartition("/")[2]
        self._storage._download_from_fs_path(*self._place(uri), str(target))
        return (target / "state.bin").read_bytes()

    def _place(self, uri: str) -> tuple[Any, str]:
        endpoint = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
        fs, path = self._storage.get_fs_and_path(f"{uri}?scheme=http&endpoint_override={endpoint}")
        return fs, path


class Dcp:
    """torch.distributed.checkpoint through s3torchconnector (AWS' C runtime)."""

    def __init__(self, folder: Path) -> None:
        import torch

        self._torch = torch
        self._dcp: Any = import_module("torch.distributed.checkpoint")
        self._s3: Any = import_module("s3torchconnector.dcp")
        library: Any = import_module("s3torchconnector")
        client: Any = import_module("s3torchconnector._s3client")
        region, endpoint = os.environ["AWS_DEFAULT_REGION"], os.environ["AWS_ENDPOINT_URL"]
        # Three attempts in place of ten: the outcome is the same, and comes after seconds in place of 40.
        config = library.S3ClientConfig(force_path_style=True, max_attempts=3)
        self._region = region
        # Reader and writer take no address of their own.
        self._client = client.S3Client(region=region, endpoint=endpoint, s3client_config=config)

    def save(self, uri: str) -> None:
        writer = self._s3.S3StorageWriter(self._region, uri)
        writer.fs._client = self._client
        state = {"weights": self._torch.frombuffer(bytearray(CONTENT), dtype=self._torch.uint8)}
        self._dcp.save(state, storage_writer=writer, no_dist=True)

    def load(self, uri: str) -> bytes:
        reader = self._s3.S3StorageReader(self._region, uri)
        reader.fs._client = self._client
        state = {"weights": self._torch.zeros(len(CONTENT), dtype=self._torch.uint8)}
        self._dcp.load(state, storage_reader=reader, no_dist=True)
        return bytes(state["weights"].numpy())


PEERS: dict[str, Callable[[Path], Peer]] = {"ray": RayTrain, "dcp": Dcp}


def answer(peer: Peer, order: str) -> dict[str, str]:
    """Do what a line says."""
    verb, uri = order.split()
    try:
        if verb == "save":
            peer.save(uri)
            return {"came": "right"}
        return {"came": "right" if peer.load(uri) == CONTENT else "wrong"}
    except BaseException as error:  # whatever a library raises is its word; torch's CheckpointException is no Exception
        return {"came": "told", "error": f"{type(error).__name__}: {error}"[:300]}


def main() -> None:
    """Serve until stdin ends."""
    peer = PEERS[sys.argv[1]](Path(sys.argv[2]))
    for line in sys.stdin:
        print(json.dumps(answer(peer, line)), flush=True)


if __name__ == "__main__":
    main()
