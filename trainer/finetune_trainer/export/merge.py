"""The adapter merged into the base model's original weights, file by file."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from finetune_trainer.engine.collectives import ControlGroup
from finetune_trainer.export.adapter import WEIGHTS
from finetune_trainer.export.config import read_head_config, write_config
from finetune_trainer.export.deltas import Change, Deltas
from finetune_trainer.export.gather import parent_module
from finetune_trainer.export.shards import SHARD_BYTES, ShardWriter
from finetune_trainer.model.folder import indexed_weights
from finetune_trainer.model.keys import SCORE_WEIGHT, open_weights
from finetune_trainer.model.start_adapter import ADAPTED_SCORE


def export_merged(
    adapter: Path, model_path: Path, folder: Path, control: ControlGroup, dtype: torch.dtype, shard: int = SHARD_BYTES
) -> None:
    """Write the model in `model_path` with the adapter in the folder `adapter` added to it into `folder`, on rank 0.

    What it changes is computed in float64 from the weights as published, never from what training held (which may have
    been 4 bits, or weights that a part was taken out of), and stored in the wider of
    the file's dtype and that of training, `dtype`; weights without adapter stay as they are. No more than one shard of
    `shard` bytes is held in memory. Collective, so that an error (CannotMerge, StorageError) reaches every rank.
    """
    merging = _Merging(adapter, model_path, folder, dtype, shard)
    control.agree(lambda: merging.start() if control.is_main else None)
    for name in indexed_weights(model_path, str(model_path)):
        control.agree(lambda name=name: merging.add(model_path / name) if control.is_main else None)  # type: ignore[misc]
    control.agree(lambda: merging.finish() if control.is_main else None)


def merge_files(adapter: Path, model_path: Path, folder: Path, dtype: torch.dtype) -> None:
    """The same in this process alone."""
    merging = _Merging(adapter, model_path, folder, dtype, SHARD_BYTES)
    merging.start()
    for name in indexed_weights(model_path, str(model_path)):
        merging.add(model_path / name)
    merging.finish()


class _Merging:
    def __init__(self, adapter: Path, model_path: Path, folder: Path, dtype: torch.dtype, shard: int) -> None:
        self._places = (model_path, adapter, folder)
        self._dtype = dtype
        self._writer = ShardWriter(folder, shard)
        self._deltas: Deltas | None = None
        self._scores = False
        self._left_out: set[str | None] = set()

    def start(self) -> None:
        model_path, adapter, _ = self._places
        self._deltas = Deltas(model_path, adapter)
        with open_weights(adapter / WEIGHTS) as stored:
            self._scores = ADAPTED_SCORE in stored.keys()  # noqa: SIM118  (no dictionary)
            if self._scores:
                self._left_out = {SCORE_WEIGHT, self._deltas.output_embedding()}
                self._writer.add({SCORE_WEIGHT: stored.get_tensor(ADAPTED_SCORE)})

    def add(self, file: Path) -> None:
        assert self._deltas is not None
        for weights in _merged(file, self._deltas, self._dtype, self._left_out):
            self._writer.add(weights)

    def finish(self) -> None:
        model_path, adapter, folder = self._places
        assert self._deltas is not None
        dtype = torch.promote_types(self._writer.finish(), self._dtype)
        head = read_head_config(adapter) if self._scores else {}  # other adapters lie beside what is their base's
        write_config(model_path, folder, dtype, self._deltas.vocabulary, head)


def _merged(
    file: Path, deltas: Deltas, dtype: torch.dtype, left_out: Collection[str | None]
) -> Iterator[dict[str, Tensor]]:
    """The file's weights, but for some, with what the adapter adds, a few modules at a time."""
    with open_weights(file) as stored:
        for _, group in groupby(sorted(set(stored.keys()) - set(left_out)), key=parent_module):
            names = list(group)
            changes = deltas.of(names)
            yield {name: _changed(stored.get_tensor(name), changes.get(name), dtype) for name in names}


def _changed(weight: Tensor, change: Change | None, dtype: torch.dtype) -> Tensor:
    return weight if change is None else change.apply(weight).to(torch.promote_types(weight.dtype, dtype))
