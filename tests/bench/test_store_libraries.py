"""Putting and getting objects by the product's store against boto3, obstore and s3torchconnector."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from bench.store_race import VERBS, chosen_size, race
from ranks import REPOSITORY

pytestmark = pytest.mark.bench


def test_a_gigabyte_costs_less_processor_time_than_by_other_libraries(tmp_path: Path) -> None:
    report = race(chosen_size(), ["ours", "boto3", "obstore", "s3torchconnector"], tmp_path)
    console = Console(width=120)
    try:
        for verb in VERBS:
            for peer in ("s3torchconnector", "boto3"):
                report.judge(verb, peer)
    finally:
        report.show(console)
        console.print(f"Saved as {report.save(REPOSITORY / 'build' / 'bench')}")
