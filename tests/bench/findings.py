"""What a race against libraries of `bench.peers` found: ratios, judged by their bounds, shown and kept."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar

from rich.console import Console

from bench.bounds import bounds
from bench.machine import load_average, tell_if_busy
from bench.race import Spread


@dataclass(kw_only=True)
class Findings:
    """Ratios by the name of their bound. `KIND` begins the name of its file, `PEERS` are the packages raced against."""

    KIND: ClassVar[str]
    PEERS: ClassVar[Sequence[str]]

    ratios: dict[str, Spread] = field(default_factory=dict)
    load_before: float = field(default_factory=load_average)

    def hold(self, name: str, ratios: Sequence[float], *, judged: bool) -> None:
        """Keep the ratios of all rounds; if `judged`, AssertionError when their median is beyond its bound."""
        self.ratios[name] = Spread.of(ratios)
        limits, median = bounds()[name], self.ratios[name].median
        if judged:
            holds = median <= limits["bound"] if limits.get("at_most") else median >= limits["bound"]
            assert holds, f"{name}: {self.ratios[name]}"

    def show_ratios(self, console: Console) -> None:
        """Print each ratio beside its goal and bound, and whether the machine was busy."""
        for name, ratio in self.ratios.items():
            limits = bounds()[name]
            console.print(f"{name}: {ratio}, goal {limits['goal']:g}, bound {limits['bound']:g}")
        tell_if_busy(console, self.load_before)

    def save(self, folder: Path) -> Path:
        """Write everything that was measured as JSON; returns the file."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.KIND}-{time.strftime('%Y%m%d-%H%M%S')}.json"
        path.write_text(json.dumps(asdict(self) | {"peers": self.PEERS}, indent=2))
        return path
