"""Log-probabilities of the answers of preference data, computed once before training and kept beside the checkpoints.

Steps then need no reference model. What is kept is named by a hash of what it depends on: the model, its tokenizer and
template, the checkpoint that training starts from, the data, and how it is cut.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune_trainer.data import DatasetIndex, EvalSet, Row
from finetune_trainer.engine.loss import Between
from finetune_trainer.errors import DataError
from finetune_trainer.objectives.scoring import ReferenceModel, answer_log_probabilities
from finetune_trainer.objectives.setting import Setting
from finetune_trainer.store import ObjectNotFound, crc64nvme, open_store

FOLDER = "reference"
"""Beside the runs of a checkpoint location, for every run that begins with the same model and reads the same data."""
VERSION = 1
CHECKSUM_BYTES = 8

Scores = NDArray[np.float64]
"""[records, 2]: of a set's records, in the order of its files, those of the chosen and the rejected answer; NaN where
a record cannot be used.
"""


class Precomputed(ReferenceModel):
    """Looks log-probabilities up by the ids of records."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._store = open_store(f"{setting.job.spec.checkpoint.uri}/{FOLDER}")
        self._files: dict[str, Scores] = {}

    def begin(self, engine: Any, fresh: bool, between: Between) -> None:
        """Read what was kept of each set, or compute and keep it, which takes the weights that training begins with."""
        sets = self._setting.once()
        _refuse_two_readings([held.index for held in sets])
        for held in sets:
            scores = self._scores(engine, held, fresh, between)
            for name, first, count in _places(held.index):
                self._files[name] = scores[first : first + count]

    def log_probabilities(self, engine: Any, rows: Sequence[Row]) -> Tensor:
        """No forward pass at all. Raises DataError for a record that had none."""
        names = list(chain.from_iterable(row.records for row in rows))
        found = np.array([self._of(name)[n % 2] for n, name in enumerate(names)], dtype=np.float64)
        if np.isnan(found).any():
            missing = names[int(np.argmax(np.isnan(found)))]
            raise DataError(f"{missing}: no log-probability was kept of it in {self._store.uri}: delete that folder")
        return torch.from_numpy(found).to(self._setting.forward.device)

    def _scores(self, engine: Any, held: EvalSet, fresh: bool, between: Between) -> Scores:
        control, key = self._setting.control, self._key(held.index)
        read: list[Scores] = []
        control.agree(lambda: read.extend(self._kept(key)))
        if control.sum([bool(read)])[0] == control.world_size:
            return read[0]
        if not fresh:
            raise DataError(
                f"{self._store.uri}/{key} is gone or damaged, with the reference's log-probabilities that this run "
                "began with: put it back, or start a new run (another metadata.name)"
            )
        computed = self._compute(engine, held, between)
        control.agree(lambda: self._keep(key, computed))
        return computed

    def _of(self, record: str) -> Scores:
        name, _, number = record.rpartition("#")
        found: Scores = self._files[name][int(number) - 1]
        return found

    def _key(self, index: DatasetIndex) -> str:
        spec = self._setting.job.spec
        facts = {
            "version": VERSION,
            **self._setting.start,
            "data": index.id,
            "maxLength": spec.data.max_length,
            "precision": str(spec.training.precision),
            **({} if spec.method.qlora is None else {"bits": spec.method.qlora.model_dump(mode="json")}),
        }
        return f"{hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]}.npy"

    def _kept(self, key: str) -> list[Scores]:
        """What is kept under `key`; nothing if it is not whole."""
        try:
            data = self._store.get(key)
        except ObjectNotFound:
            return []
        checksum, content = data[:CHECKSUM_BYTES], data[CHECKSUM_BYTES:]
        if int.from_bytes(checksum, "little") != crc64nvme(content):
            return []
        return [np.load(io.BytesIO(content), allow_pickle=False)]

    def _keep(self, key: str, scores: Scores) -> None:
        if self._setting.control.is_main:
            content = io.BytesIO()
            np.save(content, scores, allow_pickle=False)
            data = content.getvalue()
            self._store.put(key, crc64nvme(data).to_bytes(CHECKSUM_BYTES, "little") + data)

    def _compute(self, engine: Any, held: EvalSet, between: Between) -> Scores:
        """The scores of a set, of which every rank computes a share; the same on every rank."""
        mine: list[tuple[str, float]] = []
        for micro_batches, _ in held.parts(self._setting.job.spec.training.micro_batch_size or 1):
            for rows in micro_batches:
                between()
                values = answer_log_probabilities(self._setting.forward, engine, rows).tolist()
                mine += zip(chain.from_iterable(row.records for row in rows), values, strict=True)
        places = {name: first for name, first, _ in _places(held.index)}
        scores = np.full((held.index.records, 2), np.nan)
        # Every rank has whole pairs, so that the chosen ones stand at even places of all of them too.
        for n, (record, value) in enumerate(chain.from_iterable(self._setting.control.gather(mine))):
            name, _, number = record.rpartition("#")
            scores[places[name] + int(number) - 1, n % 2] = value
        return scores


def _refuse_two_readings(indices: Sequence[DatasetIndex]) -> None:
    """DataError for a file that is read in two ways: records are told apart by file and number alone."""
    read: dict[str, tuple[object, ...]] = {}
    for source in chain.from_iterable(index.sources for index in indices):
        how = (source.format, source.columns)
        for file in source.files:
            if read.setdefault(name := f"{source.root}/{file.key}", how) != how:
                raise DataError(
                    f"spec.data: {name} is read with other columns a second time, and reference: Precomputed keeps one "
                    "pair of log-probabilities for each of its records: copy the file under another name, or write "
                    "reference: Copy, or Base with an adapter"
                )


def _places(index: DatasetIndex) -> Iterator[tuple[str, int, int]]:
    """Name, number of the first record and number of records of each file of a set, in order."""
    first = 0
    for source in index.sources:
        for file in source.files:
            count = int(sum(file.records))
            yield f"{source.root}/{file.key}", first, count
            first += count
