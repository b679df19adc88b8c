"""The history of a run: one record per step and evaluation, in memory, as JSON lines on disk, and for TensorBoard.

The whole history travels inside every checkpoint, so that after a resume it holds each step exactly once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from math import exp
from pathlib import Path
from typing import Any

import zstandard

Record = Mapping[str, Any]

EVAL_PREFIX = "evalLoss/"
"""What stands before a held-out set's name in the key of its loss."""

METRIC_PREFIX = "eval/"
"""What stands before a held-out set's name, a slash, and the name of an objective's metric."""

DETAILS_PREFIX = "evalDetails/"
"""What stands before a held-out set's name in the key of what an objective says of it beside numbers."""


LARGEST_EXPONENT = 700.0
"""Above 709.8 the exponential is beyond a float64."""


class History:
    """Records of a run so far; a `folder` gets `metrics.jsonl` and `tensorboard/`, which match them."""

    def __init__(self, folder: Path | None) -> None:
        self.records: list[Record] = []
        self.folder = folder
        self._files = _Files(folder) if folder is not None else None

    def add(self, record: Record) -> None:
        """Append one record; it must have an integer `step`."""
        self.records.append(record)
        if self._files is not None:
            self._files.write(record)

    def replace(self, records: Iterable[Record]) -> None:
        """Forget everything and hold exactly these records."""
        self.close()
        self.records = []
        self._files = _Files(self.folder) if self.folder is not None else None
        for record in records:
            self.add(record)

    def close(self) -> None:
        """Flush and close the files."""
        if self._files is not None:
            self._files.close()


class _Files:
    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        self._lines = (folder / "metrics.jsonl").open("w", encoding="utf-8")
        from torch.utils.tensorboard.writer import SummaryWriter  # who only reads records needs no torch

        self._board = SummaryWriter(log_dir=str(folder / "tensorboard"))

    def write(self, record: Record) -> None:
        self._lines.write(_line(record))
        self._lines.flush()
        for name, value in record.items():
            if isinstance(value, int | float) and name != "step":
                self._board.add_scalar(name, value, record["step"])

    def close(self) -> None:
        self._lines.close()
        self._board.close()


def losses_by_set(record: Record) -> dict[str, float | None]:
    """The loss of each held-out set in the record of an evaluation."""
    return {key.removeprefix(EVAL_PREFIX): loss for key, loss in record.items() if key.startswith(EVAL_PREFIX)}


def perplexity(loss: float) -> float:
    """exp of a loss in nats per token, of at most `LARGEST_EXPONENT`."""
    return exp(min(loss, LARGEST_EXPONENT))


def metrics_by_set(record: Record) -> dict[str, dict[str, float]]:
    """The objective's metrics in the record of an evaluation, by held-out set and name."""
    found: dict[str, dict[str, float]] = {}
    for key, value in record.items():
        if key.startswith(METRIC_PREFIX) and value is not None:
            name, _, metric = key.removeprefix(METRIC_PREFIX).partition("/")
            found.setdefault(name, {})[metric] = value
    return found


def pack(records: Iterable[Record]) -> bytes:
    """Records as zstd-compressed JSON lines, deterministic for equal records."""
    return zstandard.ZstdCompressor().compress("".join(_line(record) for record in records).encode())


def unpack(data: bytes) -> list[Record]:
    """The records that `pack` compressed."""
    text = zstandard.ZstdDecompressor().decompressobj().decompress(data).decode()
    return [json.loads(line) for line in text.splitlines()]


def _line(record: Record) -> str:
    return json.dumps(record, separators=(",", ":")) + "\n"
