"""Where a model comes from, in enough detail to make it again."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finetune_trainer.model.folder import indexed_weights
from finetune_trainer.spec import FineTuneJob, to_manifest
from finetune_trainer.store import Checkpoint

FULL_HASH_BYTES = 2 * 10**9  # some seconds on one core
CHUNK_BYTES = 2**20
SECRET = ("storage", "hub")  # what the manifest says of credentials: names of secrets, of no use to anybody else


def lineage(
    job: FineTuneJob, model_path: Path, dataset: str, entry: Checkpoint, log_uri: str, versions: Mapping[str, Any]
) -> dict[str, Any]:
    """JSON: base model, data, checkpoint, package versions and the manifest without what it says of credentials.

    `dataset` is the id of the training data's index, `log_uri` the run's folder, whose log holds `entry`.
    """
    manifest = to_manifest(job)
    spec = {name: part for name, part in manifest["spec"].items() if name not in SECRET}
    data = job.spec.data
    return {
        "base": {"uri": job.spec.model.uri, **fingerprint(model_path)},
        "data": {"train": [source.uri for source in data.train], "id": dataset, "eval": [s.uri for s in data.eval]},
        "checkpoint": {"uri": log_uri, "step": entry.step, "seq": entry.seq, "committedAt": entry.time.isoformat()},
        "versions": dict(versions),
        "job": {**manifest, "metadata": {"name": job.metadata.name, "namespace": job.metadata.namespace}, "spec": spec},
    }


def fingerprint(model_path: Path) -> dict[str, Any]:
    """SHA-256 of a model's weight files in order of their names, and what was hashed.

    Below `FULL_HASH_BYTES` it is every byte; above, each file's name, size and safetensors header, which holds names,
    shapes and dtypes: a change of values alone does not show then.
    """
    files = [model_path / name for name in indexed_weights(model_path, str(model_path))]
    size = sum(file.stat().st_size for file in files)
    whole = size < FULL_HASH_BYTES
    digest = hashlib.sha256()
    for file in files:
        for part in _bytes_of(file) if whole else _header_of(file):
            digest.update(part)
    return {"bytes": size, "sha256": digest.hexdigest(), "hashed": "weights" if whole else "names, sizes and headers"}


def _bytes_of(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk


def _header_of(file: Path) -> Iterator[bytes]:
    """A safetensors file begins with the length of its header as 8 little-endian bytes."""
    yield f"{file.name} {file.stat().st_size}\n".encode()
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        yield stream.read(length)
