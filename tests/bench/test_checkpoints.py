"""Saving and loading training state against torch's DCP with s3torchconnector, and against torch.save with boto3."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from bench.checkpoint_race import race
from ranks import REPOSITORY

pytestmark = pytest.mark.bench

JUDGED = (
    ("save", "dcp", "seconds"),
    ("save", "dcp", "cpu"),
    ("save", "torch.save", "seconds"),
    ("save", "torch.save", "cpu"),
    ("load", "dcp", "seconds"),
    ("load", "dcp", "cpu"),
    ("stall", "dcp", "seconds"),
)


def test_checkpoints_are_saved_and_loaded_faster_than_by_other_ways(tmp_path: Path) -> None:
    report = race(["ours", "dcp", "torch.save"], tmp_path)
    console = Console(width=130)
    try:
        for verb, peer, what in JUDGED:
            report.judge(verb, peer, what)
    finally:
        report.show(console)
        console.print(f"Saved as {report.save(REPOSITORY / 'build' / 'bench')}")
