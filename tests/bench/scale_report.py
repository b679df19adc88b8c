"""What the scale bench found: tables on the terminal, and a JSON file for later comparison."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.bar import Bar
from rich.console import Console
from rich.table import Table

from bench.bounds import bounds
from bench.machine import load_average, tell_if_busy
from bench.race import Spread
from bench.scale_burst import Burst
from bench.scale_live import Start
from bench.scale_steady import Steady


@dataclass(frozen=True)
class Size:
    """How much is measured: jobs at once, in seconds of a steady rate, live; rounds of each, seconds without work."""

    jobs: int
    seconds: float
    live: int
    rounds: int
    idle: float


FULL = Size(1000, 30, 10_000, 5, 30)
TINY = Size(40, 2, 100, 1, 2)


def chosen_size() -> Size:
    """`BENCH_SCALE`: full (the default), or tiny, to try the bench itself; bounds hold for full only."""
    return {"full": FULL, "tiny": TINY}[os.environ.get("BENCH_SCALE", "full")]


@dataclass(frozen=True)
class Finding:
    """One number against its bound, which it may not be above (`at_most`) or below."""

    name: str
    value: Spread
    bound: float
    goal: float
    at_most: bool

    def within(self, limit: float) -> bool:
        """Whether the median is on the right side."""
        return self.value.median <= limit if self.at_most else self.value.median >= limit

    def __str__(self) -> str:
        side = "above" if self.at_most else "below"
        return f"{self.name} is {self.value}, {side} the bound {self.bound}"


@dataclass
class ScaleReport:
    """Everything that one run of the scale bench measures."""

    size: Size = field(default_factory=chosen_size)
    bounds: dict[str, Any] = field(default_factory=bounds)
    load_before: float = field(default_factory=load_average)
    bursts: dict[str, list[Burst]] = field(default_factory=dict)
    steadies: dict[float, list[Steady]] = field(default_factory=dict)
    starts: list[Start] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def judge(self, name: str, values: Sequence[float]) -> None:
        """Keep a number with its bound in `bounds.toml`."""
        bound = self.bounds[name]
        finding = Finding(name, Spread.of(values), bound["bound"], bound["goal"], bound.get("at_most", False))
        self.findings.append(finding)

    def check(self) -> None:
        """AssertionError when a number is on the wrong side of its bound (at the full size)."""
        wrong = [str(one) for one in self.findings if not one.within(one.bound)]
        assert self.size != FULL or not wrong, "; ".join(wrong)

    def show(self, console: Console) -> None:
        """Print what was measured and how it lies to bounds and goals."""
        console.print(
            f"[bold]The operator at scale[/bold]: {os.cpu_count()} cores for API server, etcd, operator, load"
        )
        for table in (self._bursts(), self._steadies(), self._starts(), self._findings()):
            if table.row_count:
                console.print(table)
        tell_if_busy(console, self.load_before)

    def save(self, folder: Path) -> Path:
        """Write everything that was measured as JSON; returns the file."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"scale-{time.strftime('%Y%m%d-%H%M%S')}.json"
        steadies = [
            {"rate": rate, "settled": one.settled}
            | {f"p{share}": one.percentile(share / 100) for share in (50, 99, 100)}
            for rate, rounds in self.steadies.items()
            for one in rounds
        ]
        document = {
            "load_before": self.load_before,
            "size": asdict(self.size),
            "bursts": {name: [asdict(one) for one in rounds] for name, rounds in self.bursts.items()},
            "steadies": steadies,
            "starts": [asdict(one) for one in self.starts],
            "findings": [asdict(one) for one in self.findings],
        }
        path.write_text(json.dumps(document, indent=2))
        return path

    def _bursts(self) -> Table:
        columns = ("jobs/s", "", "writes/job", "MiB", "operator's CPU", "API server's CPU")
        table = Table(f"{self.size.jobs} jobs at once", *columns)
        best = max((spread(rounds, rate_of).median for rounds in self.bursts.values()), default=0.0)
        for name, rounds in self.bursts.items():
            rate = spread(rounds, rate_of)
            table.add_row(
                name,
                str(rate),
                Bar(best, 0, rate.median, width=24),
                f"{spread(rounds, lambda one: one.writes_per_job).median:.2f}",
                f"{spread(rounds, lambda one: one.memory['operator']).median:.0f}",
                f"{spread(rounds, lambda one: 1000 * one.cpu['operator'] / one.jobs).median:.1f} ms/job",
                f"{spread(rounds, lambda one: 1000 * one.cpu['API server'] / one.jobs).median:.1f} ms/job",
            )
        return table

    def _steadies(self) -> Table:
        table = Table("steady rate", "p50 until status, s", "p99, s", "longest, s", "last one after, s")
        for rate, rounds in self.steadies.items():
            shares = [str(spread(rounds, partial(Steady.percentile, share=share))) for share in (0.5, 0.99, 1.0)]
            table.add_row(f"{rate:.0f} jobs/s", *shares, str(spread(rounds, lambda one: one.settled)))
        return table

    def _starts(self) -> Table:
        table = Table(f"{self.size.live} live jobs", "measured")
        if self.starts:
            table.add_row("cold start, s", str(spread(self.starts, lambda one: one.seconds)))
            table.add_row("writes", str(spread(self.starts, lambda one: sum(one.writes.values()))))
            table.add_row("MiB", str(spread(self.starts, lambda one: one.memory)))
            table.add_row("% of a core when idle", str(spread(self.starts, lambda one: one.idle_cpu)))
        return table

    def _findings(self) -> Table:
        table = Table("promise", "median (spread)", "bound", "goal")
        for one in self.findings:
            colour = "green" if one.within(one.goal) else "yellow" if one.within(one.bound) else "red"
            sign = "at most" if one.at_most else "at least"
            table.add_row(one.name, f"[{colour}]{one.value}[/]", f"{sign} {one.bound:g}", f"{one.goal:g}")
        return table


def spread(rounds: Sequence[Any], value: Callable[[Any], float]) -> Spread:
    """Median, smallest and largest of a number over rounds."""
    return Spread.of([value(one) for one in rounds])


def rate_of(one: Burst) -> float:
    """Jobs per second."""
    return one.rate
