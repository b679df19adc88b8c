"""How busy the machine of a bench is."""

from __future__ import annotations

import os

from rich.console import Console

BUSY = 0.5
"""Load average per core, before the bench starts, above which its numbers say little."""


def load_average() -> float:
    """Processes that ran or waited for a core in the last minute."""
    return os.getloadavg()[0]


def tell_if_busy(console: Console, load: float) -> None:
    """Warn of numbers that were measured after this load."""
    if load > BUSY * (os.cpu_count() or 1):
        console.print(f"[red]The machine was busy (load {load:.1f}): these numbers say little.[/red]")
