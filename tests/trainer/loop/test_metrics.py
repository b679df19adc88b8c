"""The run's history on disk and inside checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

from finetune_trainer.metrics import History, Record, pack, unpack

RECORDS: list[Record] = [{"step": 1, "loss": 2.5}, {"step": 2, "loss": None}, {"step": 2, "evalLoss": 2.0}]


def lines(folder: Path) -> list[object]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_records_are_on_disk_as_soon_as_they_are_added(tmp_path: Path) -> None:
    history = History(tmp_path)
    for record in RECORDS:
        history.add(record)
    assert lines(tmp_path) == RECORDS
    history.close()


def test_a_resume_replaces_what_was_trained_beyond_the_commit(tmp_path: Path) -> None:
    history = History(tmp_path)
    for record in RECORDS:
        history.add(record)
    history.replace(RECORDS[:1])
    history.add({"step": 2, "loss": 2.25})
    history.close()
    assert lines(tmp_path) == [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.25}]
    assert list((tmp_path / "tensorboard").iterdir())


def test_packed_records_come_back_equal() -> None:
    assert unpack(pack(RECORDS)) == RECORDS
