"""Weights to safetensors files of a bounded size, written as they arrive, with the index that transformers reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from finetune_trainer.export.disk import writing
from finetune_trainer.model.folder import INDEX, SINGLE

SHARD_BYTES = 5 * 10**9  # below S3's limit of 5 GiB for one PUT


class ShardWriter:
    """Collects tensors and writes a file whenever `shard_bytes` would be exceeded; no more than that is held in memory.

    The number of files is part of their names, so they get their names when the last one is written. `largest` is the
    dtype of the largest weight. Raises StorageError where the disk is full or cannot be written.
    """

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self._folder = folder
        self._limit = shard_bytes
        self._waiting: dict[str, Tensor] = {}
        self._waiting_bytes = 0
        self._files: list[list[str]] = []
        self._total_bytes = 0
        self._largest: Tensor | None = None

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        """Take tensors in; a name that came before is an error (ValueError)."""
        for name, tensor in tensors.items():
            if name in self._waiting or any(name in names for names in self._files):
                raise ValueError(f"two weights are called {name}")
            if self._waiting and self._waiting_bytes + tensor.nbytes > self._limit:
                self._flush()
            self._waiting[name] = _own(tensor)
            self._waiting_bytes += tensor.nbytes
            self._total_bytes += tensor.nbytes
            if self._largest is None or tensor.numel() > self._largest.numel():
                self._largest = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    def finish(self) -> torch.dtype:
        """Write what is left, name the files and write their index; returns the dtype of the largest weight."""
        if self._waiting:
            self._flush()
        if self._largest is None:
            raise ValueError("there are no weights to write")
        if len(self._files) == 1:
            self._path(1).rename(self._folder / SINGLE)
        else:
            self._write_index()
        return self._largest.dtype

    def _flush(self) -> None:
        path = self._path(len(self._files) + 1)
        with writing(path):
            save_file(self._waiting, path, metadata={"format": "pt"})
        self._files.append(list(self._waiting))
        self._waiting, self._waiting_bytes = {}, 0

    def _write_index(self) -> None:
        count, weight_map = len(self._files), {}
        for number, names in enumerate(self._files, start=1):
            file = f"model-{number:05d}-of-{count:05d}.safetensors"
            self._path(number).rename(self._folder / file)
            weight_map.update(dict.fromkeys(names, file))
        index = {"metadata": {"total_size": self._total_bytes}, "weight_map": dict(sorted(weight_map.items()))}
        (self._folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")

    def _path(self, number: int) -> Path:
        return self._folder / f"unnamed-{number:05d}.safetensors"


def _own(tensor: Tensor) -> Tensor:
    """Contiguous, and sole owner of its memory: safetensors refuses views of one another, which split weights are."""
    whole = tensor.contiguous()
    return whole if whole.untyped_storage().nbytes() == whole.nbytes else whole.clone()
