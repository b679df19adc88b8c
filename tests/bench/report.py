"""What a bench found: a table on the terminal, and a JSON file for later comparison."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.bar import Bar
from rich.console import Console
from rich.table import Table

from bench.bounds import bounds
from bench.machine import load_average, tell_if_busy
from bench.race import Race, Spread
from bench.workload import FULL, GPU, Workload

PACKAGES = ("torch", "deepspeed", "transformers", "trl", "accelerate")


@dataclass(frozen=True)
class Comparison:
    """One ratio against its bound: tokens per second of `ours` over those of `peer`."""

    name: str
    ours: str
    peer: str
    ratio: Spread
    cpu_ratio: Spread
    bound: float
    goal: float

    @property
    def holds(self) -> bool:
        """Whether the median is not below the bound."""
        return self.ratio.median >= self.bound


@dataclass(frozen=True)
class Rate:
    """How fast one contestant of a race was, in non-padding tokens per second, and what else is worth saying of it."""

    race: str
    contestant: str
    rate: Spread
    note: str = ""


@dataclass
class Report:
    """Everything that one run of the bench measures."""

    workload: Workload
    bounds: dict[str, Any] = field(default_factory=bounds)
    load_before: float = field(default_factory=load_average)
    rates: list[Rate] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)

    def record(self, title: str, race: Race, notes: Mapping[str, str] | None = None) -> None:
        """Keep every contestant's rate, with notes by contestant."""
        self.rates += [Rate(title, name, race.rate(name), (notes or {}).get(name, "")) for name in race.turns]

    def judge(self, name: str, race: Race, ours: str, peer: str) -> None:
        """Keep a ratio; AssertionError when it lies below its bound in `bounds.toml` (at full scale)."""
        bound = self.bounds[name]
        ratio = race.ratio(ours, peer)
        found = Comparison(name, ours, peer, ratio, race.cpu_ratio(ours, peer), bound["bound"], bound["goal"])
        self.comparisons.append(found)
        if self.workload.scale in (FULL, GPU):
            assert found.holds, f"{name}: {ours} / {peer} is {ratio}, below the bound {found.bound} ({self._machine()})"

    def show(self, console: Console) -> None:
        """Print what was measured, on what, and how it lies to bounds and goals."""
        scale = self.workload.scale
        console.print(
            f"[bold]Tokens per second, non-padding[/bold]: Llama of {self.workload.parameters / 1e6:.1f} M parameters, "
            f"vocabulary {scale.vocabulary}, rows of {scale.max_length}; {self._machine()}"
        )
        console.print(self._rates())
        console.print(self._ratios())
        tell_if_busy(console, self.load_before)

    def save(self, folder: Path) -> Path:
        """Write everything that was measured as JSON; returns the file."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"bench-{time.strftime('%Y%m%d-%H%M%S')}.json"
        document = {
            "machine": self._machine(),
            "scale": asdict(self.workload.scale),
            "parameters": self.workload.parameters,
            "rates": [asdict(rate) for rate in self.rates],
            "comparisons": [asdict(comparison) for comparison in self.comparisons],
        }
        path.write_text(json.dumps(document, indent=2))
        return path

    def _rates(self) -> Table:
        table = Table("race", "contestant", "tokens/s", "", "notes")
        for one in self.rates:
            best = max(other.rate.median for other in self.rates if other.race == one.race)
            spread = f"{one.rate.median:.1f} ({one.rate.low:.1f} to {one.rate.high:.1f})"
            table.add_row(one.race, one.contestant, spread, Bar(best, 0, one.rate.median, width=24), one.note)
        return table

    def _ratios(self) -> Table:
        table = Table("comparison", "ratio", "median (spread)", "bound", "goal", "of processor time")
        for c in self.comparisons:
            colour = "green" if c.ratio.median >= c.goal else "yellow" if c.holds else "red"
            table.add_row(
                c.name,
                f"{c.ours} / {c.peer}",
                f"[{colour}]{c.ratio}[/]",
                f"{c.bound:.2f}",
                f"{c.goal:.2f}",
                str(c.cpu_ratio),
            )
        return table

    def _machine(self) -> str:
        versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
        gpu = f"{torch.cuda.get_device_name()}, " if self.workload.scale == GPU else ""
        return f"{gpu}{cpu_model()}, {os.cpu_count()} cores, load {self.load_before:.1f} before; {versions}"


def cpu_model() -> str:
    """The processor's name as Linux gives it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
