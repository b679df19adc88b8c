"""What the product's loop adds to DeepSpeed: stream, exact loss, votes, metrics, reports."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.race import race
from bench.report import Report
from bench.turns import contestant
from bench.workload import Workload

pytestmark = pytest.mark.bench

RANKS = 2
OURS, BARE = "tests/bench/contestants.py:ours", "tests/bench/contestants.py:bare"


def test_the_loop_is_as_fast_as_a_bare_one_on_the_same_batches(
    workload: Workload, report: Report, tmp_path: Path
) -> None:
    job = workload.manifest("bare", packing="BestFit", ranks=RANKS)
    payload = {"job": str(job), "workdir": str(tmp_path / "work")}
    with ExitStack() as stack:
        contestants = [
            stack.enter_context(contestant(name, target, payload | {"loss": name}, tmp_path, n=RANKS))
            for name, target in (("ours", OURS), ("kept", BARE), ("transformers", BARE))
        ]
        found = race(contestants, steps=2, rounds=6)
    found.check_same_tokens()
    report.record(f"{RANKS} ranks, packed rows", found)
    report.judge("bare-deepspeed", found, "ours", "kept")
    report.judge("transformers-loss", found, "ours", "transformers")
