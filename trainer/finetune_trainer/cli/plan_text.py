"""An estimate as tables for people."""

from __future__ import annotations

from datetime import timedelta

from rich.console import Console
from rich.table import Table

from finetune_trainer.estimate import UTILISATION, Estimate, Verdict

GIB = 2**30
WORDS = {
    Verdict.FITS: ("fits", "green"),
    Verdict.TIGHT: ("is predicted not to fit", "yellow"),
    Verdict.TOO_LARGE: ("cannot fit", "red"),
    Verdict.UNKNOWN: (
        "memory of the device is unknown: add --gpu or --gpu-memory, without GPUs spec.workers.resources.memory",
        "yellow",
    ),
}


def show(found: Estimate, console: Console) -> None:
    """Print all of it."""
    console.print(_job(found), highlight=False)
    console.print(_memory(found))
    text, style = WORDS[found.verdict]
    console.print(f"{found.hardware.name}: {text}" + _room(found), style=style, highlight=False)
    for change in found.changes:
        console.print(f"  it would fit with {change.text}: {_gib(change.device)} a device", highlight=False)
    if found.verdict in (Verdict.TIGHT, Verdict.TOO_LARGE) and not found.changes:
        console.print("  no single change of the manifest makes it fit: take larger devices, or more", highlight=False)
    console.print(_rest(found))


def _job(found: Estimate) -> str:
    setup, counts = found.setup, found.counts
    share = 100 * counts.trainable / counts.total
    precision = "bfloat16" if setup.bf16 else "float32"
    checkpointing = "with" if setup.checkpointing else "without"
    return (
        f"{setup.method} of {found.shape.parameters:,} parameters, {counts.trainable:,} trainable ({share:.2f} %), in "
        f"{precision}\nZeRO {setup.zero_stage} on {setup.ranks} ranks, {setup.micro_batches} micro-batches of "
        f"{setup.micro_batch} x {setup.length:,} tokens, {checkpointing} gradient checkpointing"
    )


def _memory(found: Estimate) -> Table:
    table = Table(box=None)
    for header in ("device, each rank", "host, each node"):
        table.add_column(header)
        table.add_column("GiB", justify="right")
    device = list(found.peak.parts.items())
    if (rest := found.device - found.peak.size) > 0:
        device.append(("context, fragmentation", rest))
    host = list(found.host.items())
    for row in range(max(len(device), len(host))):
        cells = [*_cells(device, row), *_cells(host, row)]
        table.add_row(*cells)
    table.add_row(f"peak, at: {found.peak.moment}", _number(found.device), "all", _number(sum(found.host.values())))
    return table


def _cells(parts: list[tuple[str, int]], row: int) -> tuple[str, str]:
    return (parts[row][0], _number(parts[row][1])) if row < len(parts) else ("", "")


def _rest(found: Estimate) -> Table:
    work, cost = found.work, found.cost
    table = Table(box=None, show_header=False)
    steps = "unknown: add --tokens (`finetune data report` counts them)" if work.steps is None else f"{work.steps:,}"
    table.add_row("optimizer steps", steps)
    table.add_row("tokens", f"{work.tokens_per_step:,} a step at most")
    if work.seconds_per_step is None:
        table.add_row("time", "unknown: add --gpu, or --calibrate on such a machine")
    else:
        whole = "" if work.seconds is None else f", {timedelta(seconds=round(work.seconds))} in all"
        table.add_row("time", f"{work.seconds_per_step:.2f} s a step{whole}, at {UTILISATION:.0%} of the peak speed")
    table.add_row("checkpoint", f"{_gib(found.checkpoint)}, {cost.kept} at most: {_gib(cost.size)}")
    if cost.dollars_per_month is not None:
        table.add_row("in S3 Standard", f"${cost.dollars_per_month:.2f} a month, ${cost.dollars_per_save:.4f} a save")
    return table


def _room(found: Estimate) -> str:
    memory = found.hardware.memory
    if found.shortage:
        return f": {found.shortage}; the least is {_gib(found.least)}"
    return "" if memory is None else f" ({_gib(found.device)} of {_gib(memory)}; at least {_gib(found.least)})"


def _number(size: float) -> str:
    return f"{size / GIB:,.2f}"


def _gib(size: float) -> str:
    return f"{size / GIB:,.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:,.1f} MiB"
