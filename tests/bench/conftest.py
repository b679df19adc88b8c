"""One workload and one report for the whole bench."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rich.console import Console

from bench.report import Report
from bench.workload import GPU, Workload, chosen_scale, make_workload
from ranks import REPOSITORY


@pytest.fixture(scope="session")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    """Model, tokenizer and data on disk."""
    return make_workload(tmp_path_factory.mktemp("bench"), chosen_scale())


@pytest.fixture(scope="session")
def report(workload: Workload) -> Iterator[Report]:
    """Collects the comparisons; shown and saved below build/bench in the end, also when one of them fails."""
    yield from collected_for(workload)


@pytest.fixture(scope="session")
def gpu_workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    """The same for a GPU: 1.1 * 10^9 parameters in rows of 4,096."""
    return make_workload(tmp_path_factory.mktemp("bench-gpu"), GPU)


@pytest.fixture(scope="session")
def gpu_report(gpu_workload: Workload) -> Iterator[Report]:
    """The comparisons on a GPU."""
    yield from collected_for(gpu_workload)


def collected_for(workload: Workload) -> Iterator[Report]:
    """A report that is shown and saved when all is measured."""
    collected = Report(workload)
    yield collected
    console = Console(width=160)
    console.print()
    collected.show(console)
    console.print(f"Saved as {collected.save(REPOSITORY / 'build' / 'bench')}")
