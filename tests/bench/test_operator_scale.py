"""The operator on one API server with thousands of jobs; for a thousand at once, against Kubeflow Trainer (Go)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from bench.scale_burst import CONTESTANTS, burst
from bench.scale_contestants import ours
from bench.scale_live import cold_start, live_jobs
from bench.scale_report import ScaleReport
from bench.scale_steady import steady
from ranks import REPOSITORY

pytestmark = [pytest.mark.bench, pytest.mark.cluster]


@pytest.fixture(scope="module")
def scale() -> Iterator[ScaleReport]:
    """Collects the numbers; shown and saved below build/bench in the end, also when a bound is missed."""
    collected = ScaleReport()
    yield collected
    console = Console(width=160)
    console.print()
    collected.show(console)
    console.print(f"Saved as {collected.save(REPOSITORY / 'build' / 'bench')}")


def test_a_thousand_jobs_at_once_are_launched_no_slower_than_by_kubeflow_trainer(
    scale: ScaleReport, tmp_path: Path
) -> None:
    rounds = scale.bursts
    for number in range(scale.size.rounds):
        order = list(CONTESTANTS.items())
        for name, make in order if number % 2 == 0 else reversed(order):
            found = burst(make(), scale.size.jobs, tmp_path / f"{name}-{number}")
            rounds.setdefault(name, []).append(found)
    pairs = zip(rounds["ours-lifted"], rounds["trainer-lifted"], strict=True)
    scale.judge("operator-burst-ratio", [one.rate / other.rate for one, other in pairs])
    scale.judge("operator-burst-rate", [one.rate for one in rounds["ours-lifted"]])
    scale.judge("operator-writes-per-job", [one.writes_per_job for one in rounds["ours"]])
    scale.check()


@pytest.mark.parametrize("rate", [50, 100])
def test_jobs_that_come_steadily_have_a_status_at_once(rate: int, scale: ScaleReport, tmp_path: Path) -> None:
    rounds = [steady(ours(), rate, scale.size.seconds, tmp_path / str(number)) for number in range(scale.size.rounds)]
    scale.steadies[rate] = rounds
    if rate == 50:
        scale.judge("operator-status-p99", [one.percentile(0.99) for one in rounds])
    scale.check()


def test_a_new_operator_takes_over_ten_thousand_jobs_without_a_write(scale: ScaleReport, tmp_path: Path) -> None:
    async def measure() -> None:
        async with live_jobs(tmp_path, scale.size.live) as load:
            for _ in range(scale.size.rounds):
                scale.starts.append(await cold_start(load, scale.size.live, scale.size.idle))

    asyncio.run(measure())
    scale.judge("operator-cold-start", [one.seconds for one in scale.starts])
    scale.judge("operator-memory", [one.memory for one in scale.starts])
    scale.judge("operator-idle-cpu", [one.idle_cpu for one in scale.starts])
    assert [one.writes for one in scale.starts if one.writes] == []
    scale.check()
