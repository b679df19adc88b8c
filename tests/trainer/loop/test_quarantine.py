"""The file of records that could not be used, over restarts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune_trainer.data import Quarantined
from finetune_trainer.quarantine import QuarantineFile
from finetune_trainer.store import open_store


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\x1c", "\r\n"])
def test_an_excerpt_with_any_line_separator_is_read_back(tmp_path: Path, separator: str) -> None:
    store = open_store(f"file://{tmp_path}")
    first = QuarantineFile(store, "team.run")
    first(Quarantined("file:///data.jsonl#1", "empty answer", f"one{separator}two"))
    first.flush()
    again = QuarantineFile(store, "team.run")
    again(Quarantined("file:///data.jsonl#1", "empty answer", f"one{separator}two"))
    again(Quarantined("file:///data.jsonl#2", "empty answer", "three"))
    again.flush()
    lines = (tmp_path / "team.run" / "quarantine.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["excerpt"] for line in lines] == [f"one{separator}two", "three"]
