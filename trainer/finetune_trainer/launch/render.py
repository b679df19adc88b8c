"""Three ways to show a run: a live view on a terminal, plain lines in a log or a pipe, JSON lines for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from typing import Any, Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from finetune_trainer.launch.audit_text import facts, sample
from finetune_trainer.launch.lines import (
    LineReporter,
    amount,
    duration,
    held_out_loss,
    items,
    line,
    loss_part,
    part,
    words,
)
from finetune_trainer.launch.progress import as_json

BAR_WIDTH = 30
REFRESHES_PER_SECOND = 4


class PlainView:
    """One line for each event, progress every ten seconds."""

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._out = out
        self._lines = LineReporter(self.note)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._out.flush()

    def show(self, event: Mapping[str, object]) -> None:
        """Write the event's line."""
        self._lines.report(event)

    def note(self, text: str) -> None:
        """Write the line."""
        print(text, file=self._out, flush=True)


class JsonView:
    """One JSON object for each event, as rank 0 sent them; what libraries print goes to stderr meanwhile."""

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._out = out
        self._printing = redirect_stdout(sys.stderr)

    def __enter__(self) -> Self:
        self._printing.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._printing.__exit__(None, None, None)
        self._out.flush()

    def show(self, event: Mapping[str, object]) -> None:
        """Write the event."""
        print(json.dumps(as_json(event)), file=self._out, flush=True)

    def note(self, text: str) -> None:
        """Write the line as a `note` event."""
        self.show({"kind": "note", "message": text})


class RichView:
    """Phases that tick off, one progress bar, held-out losses as lines above it, and the result as a table.

    `clock` is a monotonic clock in seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._spinner = Spinner("dots")
        self._phase: Mapping[str, Any] | None = None
        self._phase_start = 0.0
        self._progress: Mapping[str, Any] | None = None
        self._first: tuple[float, float] | None = None
        self._remembered: dict[str, str] = {}
        self._live = Live(
            console=console,
            get_renderable=self._render,
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._finish_phase()
        self._progress = None
        self._live.stop()

    def show(self, event: Mapping[str, object]) -> None:
        """Update the view."""
        kind = str(event.get("kind"))
        update = getattr(self, f"_on_{kind}", self._on_other)
        update(event)

    def note(self, text: str) -> None:
        """Print the line above the bar."""
        self._console.print(Text(text))

    def _on_phase(self, event: Mapping[str, Any]) -> None:
        if self._phase is None or self._phase.get("name") != event.get("name"):
            self._finish_phase()
            self._phase_start = self._clock()
        self._phase = event
        self._progress = None  # evaluating and exporting come after steps

    def _finish_phase(self) -> None:
        phase, self._phase = self._phase, None  # printing renders the live part again, which must not show it any more
        if phase is not None:
            took = duration(self._clock() - self._phase_start)
            self._console.print(Text.assemble(("\u2713 ", "green"), line(phase), (f"  {took}", "dim")))

    def _on_progress(self, event: Mapping[str, Any]) -> None:
        self._finish_phase()
        self._progress = event
        if self._first is None:
            self._first = (self._clock(), float(event.get("percent") or 0.0))

    def _on_eval(self, event: Mapping[str, Any]) -> None:
        self._remembered["held-out loss"] = held_out_loss(event)
        self._console.print(Text(line(event)))

    def _on_checkpoint(self, event: Mapping[str, Any]) -> None:
        self._remembered["last checkpoint"] = f"step {event.get('step')}"

    def _on_audit(self, event: Mapping[str, Any]) -> None:
        self._finish_phase()
        self._console.print(_table("audit", facts(event)))
        if runs := sample(event):
            styled = [(text, "green" if trained else "dim") for text, trained in runs]
            self._console.print(Text.assemble(("sample, trained parts in green\n", "dim"), *styled))

    def _on_verdict(self, event: Mapping[str, Any]) -> None:
        self._finish_phase()
        colour = "green" if event.get("verdict") == "Improved" else "yellow"
        self._console.print(Text(line(event), style=f"bold {colour}"))

    def _on_restart(self, event: Mapping[str, Any]) -> None:
        self._phase = self._progress = self._first = None
        self._console.print(Text(line(event), style="yellow"))

    _on_resize = _on_restart

    def _on_result(self, event: Mapping[str, Any]) -> None:
        self._finish_phase()
        self._progress = None
        self._console.print(_table("result", {words(key): part(key, value) for key, value in items(event).items()}))

    def _on_other(self, event: Mapping[str, Any]) -> None:
        self._console.print(Text(line(event)))

    def _render(self) -> RenderableType:
        if self._progress is not None:
            return self._training(self._progress)
        if self._phase is None:
            return Text("")
        row = Table.grid(padding=(0, 1))
        took = Text(duration(self._clock() - self._phase_start), style="dim")
        done, total = self._phase.get("done"), self._phase.get("total")
        bar: RenderableType = ProgressBar(float(total), float(done), BAR_WIDTH) if total and done is not None else ""
        detail = f" {self._phase['detail']}" if self._phase.get("detail") else ""
        row.add_row(self._spinner, f"{self._phase.get('name')}{detail}{amount(self._phase)}", bar, took)
        return row

    def _training(self, event: Mapping[str, Any]) -> RenderableType:
        percent = float(event.get("percent") or 0.0)
        row = Table.grid(padding=(0, 1))
        step = f"step {event.get('step')}/{event.get('totalSteps', '?')}"
        left = self._left(event, percent)
        row.add_row(
            self._spinner, step, ProgressBar(100, percent, BAR_WIDTH), f"{percent:.1f} %", f"{duration(left)} left"
        )
        details = [loss_part(event)]
        if event.get("tokensPerSecond") is not None:
            details.append(f"{event['tokensPerSecond']:,.0f} tokens/s")
        details += [f"{name} {value}" for name, value in self._remembered.items()]
        return Group(row, Text("  " + "  \u00b7  ".join(details), style="dim"))

    def _left(self, event: Mapping[str, Any], percent: float) -> float:
        """Return the seconds left: as the loop says, or from the pace since its first step."""
        if event.get("etaSeconds") is not None:
            return float(event["etaSeconds"])
        since, first = self._first or (self._clock(), percent)
        return (self._clock() - since) * (100 - percent) / (percent - first) if percent > first else 0.0


def _table(title: str, rows: Mapping[str, str]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, text in rows.items():
        table.add_row(name, Text(text))
    return table


AnyView = PlainView | JsonView | RichView


def choose_view(as_lines_of_json: bool, console: Console) -> AnyView:
    """Return the view for this output."""
    if as_lines_of_json:
        return JsonView()
    return RichView(console) if console.is_terminal else PlainView()
