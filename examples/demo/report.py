"""What the two runs say about themselves, as a table and answers side by side; nothing is known in advance."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from answers import Answered

Records = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Stage:
    """One finished run: what it exported into `folder`, with its `audit.json` and the records of `metrics.jsonl`."""

    title: str
    folder: Path
    audit: dict[str, Any]
    metrics: Records


def read(title: str, folder: Path) -> Stage:
    """Read what a run left in its export folder."""
    audit = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return Stage(title, folder, audit, [json.loads(line) for line in lines])


def table(stages: Sequence[Stage]) -> Table:
    """One column per run."""
    shown = Table(title="held-out loss in nats per token, lower is better", title_justify="left")
    shown.add_column()
    for stage in stages:
        shown.add_column(stage.title)
    for rows in zip(*(_facts(stage) for stage in stages), strict=True):
        shown.add_row(rows[0][0], *(value for _, value in rows))
    return shown


def _facts(stage: Stage) -> Iterator[tuple[str, str]]:
    result = stage.audit["result"]
    before, after = result["baseLoss"], result["evalLoss"]
    yield "held-out loss before", f"{before:.3f}"
    yield "held-out loss after", f"{after:.3f} ({after - before:+.3f})"
    yield "steps (exported)", f"{result['step']:,} ({result['exportedStep']:,})"
    yield "tokens", f"{result['tokens']:,}"
    yield "tokens that train", f"{result['keptTokenShare']:.1%}"
    yield "weights that train", f"{result['trainableShare']:.2%}"
    yield "seconds in steps", f"{sum(record.get('seconds', 0) for record in stage.metrics):.0f}"
    yield "tokens per second", f"{result['tokensPerSecond']:,.0f}"


def side_by_side(answered: Answered) -> Panel:
    """A question with the answers before and after fine-tuning and the one to expect."""
    grid = Table(box=None, padding=(0, 2, 0, 0), expand=True)
    for heading in ("before fine-tuning", "after", "what its docstring says"):
        grid.add_column(heading, ratio=1)
    grid.add_row(*(Text(text or "(nothing)") for text in (answered.before, answered.after, answered.reference)))
    return Panel(grid, title=Text(answered.question), title_align="left")
