"""Streaming tokens from S3 by the product against LitData, as it is fastest and with worker processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from bench.stream_race import chosen_size, race
from ranks import REPOSITORY

pytestmark = pytest.mark.bench


def test_shuffled_and_verified_tokens_come_faster_than_from_litdata(tmp_path: Path) -> None:
    report = race(chosen_size(), ["ours", "ours-by-pages", "litdata", "litdata-2-workers"], tmp_path)
    console = Console(width=120)
    try:
        report.judge("stream-litdata-best", "litdata", "rate")
        report.judge("stream-litdata-2-workers", "litdata-2-workers", "rate")
        report.judge("stream-litdata-cpu", "litdata", "price")
        report.judge("stream-by-pages-litdata-best", "litdata", "rate", "ours-by-pages")
        report.judge("stream-by-pages-litdata-2-workers", "litdata-2-workers", "rate", "ours-by-pages")
    finally:
        report.show(console)
        console.print(f"Saved as {report.save(REPOSITORY / 'build' / 'bench')}")
