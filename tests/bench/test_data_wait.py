"""The data is there when a step wants it."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from bench.data_wait import chosen_size, measure
from ranks import REPOSITORY

pytestmark = pytest.mark.bench


def test_a_trainer_waits_for_data_hardly_ever(tmp_path: Path) -> None:
    report = measure(chosen_size(), tmp_path)
    console = Console(width=120)
    try:
        report.judge()
    finally:
        report.show(console)
        console.print(f"Saved as {report.save(REPOSITORY / 'build' / 'bench')}")
