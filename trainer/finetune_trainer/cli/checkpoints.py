"""`finetune checkpoints`: look at the commits of a run, verify them, keep them, give them up, copy them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from finetune_trainer.cli import checkpoint_tables as tables
from finetune_trainer.cli.output import Output, OutputOption
from finetune_trainer.cli.run_address import log_of_run

if TYPE_CHECKING:
    from finetune_trainer.store import Checkpoint, ObjectRef, RunLog, Writer

Changed = TypeVar("Changed")

TAKEOVERS = 5
"""Claims in a row that an edit outlasts."""

THREADS = 8
"""Objects that are read at the same time."""

WHICH = "a seq of `finetune checkpoints list`, step:N, latest or best"
Where = Annotated[str, typer.Argument(help="The manifest, spec.checkpoint.uri, or status.checkpoint.latest.")]
Run = Annotated[str | None, typer.Option(help="Which run, where several lie below the address.")]
Which = Annotated[str, typer.Argument(help=f"Which checkpoint: {WHICH}.")]

checkpoints = typer.Typer(no_args_is_help=True, help="Look at, verify, keep, remove and copy the checkpoints of a run.")


@checkpoints.command("list")
def list_all(where: Where, run: Run = None, output: OutputOption = Output.TEXT) -> None:
    """List the checkpoints that are kept, oldest first."""
    log = log_of_run(where, run)
    history = log.history()
    rows = [tables.summary(history, log.journal.checkpoint(seq)) for seq in history.live]
    latest, best = history.good[-1] if history.good else None, log.best()
    best_seq = None if best is None else best.seq
    if output is Output.JSON:
        print(json.dumps([{**row, "latest": row["seq"] == latest, "best": row["seq"] == best_seq} for row in rows]))
        return
    Console(highlight=False).print(tables.list_table(rows, latest, best_seq))


@checkpoints.command()
def show(where: Where, which: Which = "latest", run: Run = None, output: OutputOption = Output.TEXT) -> None:
    """Show everything that is known of one checkpoint."""
    log = log_of_run(where, run)
    facts = tables.whole(log, find(log, which))
    if output is Output.JSON:
        print(json.dumps(facts))
    else:
        print("\n".join(tables.lines(facts)))


@checkpoints.command()
def verify(
    where: Where,
    which: Annotated[list[str] | None, typer.Argument(help=f"{WHICH}; all when left out.")] = None,
    run: Run = None,
    quarantine: Annotated[bool, typer.Option(help="Set damaged ones aside, so that no run goes on from them.")] = False,
) -> None:
    """Read every object and compare its size and CRC64NVME with what was committed; exit code 14 if one is damaged."""
    from finetune_trainer.store import CorruptObject

    log = log_of_run(where, run)
    entries = [find(log, one) for one in which] if which else log.checkpoints()
    damaged = {}
    for entry in entries:
        problems = _problems(log, entry)
        print(f"checkpoint {entry.seq} (step {entry.step}): {'; '.join(problems) or 'whole'}", flush=True)
        if problems:
            damaged[entry.seq] = problems
        if problems and quarantine and entry.seq not in log.history().quarantined:
            _set_aside(log, entry, "; ".join(problems))
    if damaged:
        aside = "set aside" if quarantine else "add --quarantine to set them aside"
        raise CorruptObject(f"{len(damaged)} of {len(entries)} checkpoints of {log.uri} are damaged: {aside}")


@checkpoints.command()
def pin(where: Where, which: Which, run: Run = None) -> None:
    """Keep a checkpoint whatever the job's retention says."""
    _set_pin(where, which, run, True)


@checkpoints.command()
def unpin(where: Where, which: Which, run: Run = None) -> None:
    """Leave a checkpoint to the job's retention again."""
    _set_pin(where, which, run, False)


@checkpoints.command("rm")
def remove(where: Where, which: Which, run: Run = None) -> None:
    """Give a checkpoint up and delete its objects; the newest good one and pinned ones stay."""
    log = log_of_run(where, run)
    entry = find(log, which)
    gone = edit(log, lambda editor: editor.discard(entry))
    print(f"checkpoint {entry.seq} (step {entry.step}) is {'removed' if gone else 'not there any more'}")


@checkpoints.command()
def copy(
    where: Where,
    which: Which,
    to: Annotated[str, typer.Argument(help="Where to: a folder, s3:// or file://, in which the run's own is made.")],
    run: Run = None,
    name: Annotated[str | None, typer.Option(help="Id of the run there; the same as here when left out.")] = None,
) -> None:
    """Copy one checkpoint to another place, every byte verified on its way."""
    from finetune_trainer.store import RunLog, copy_checkpoint, open_store

    log = log_of_run(where, run)
    entry = find(log, which)
    target = RunLog(open_store(to), name or log.journal.run_id)
    with _progress(entry, f"copying step {entry.step}") as advance:
        made = copy_checkpoint(log, entry, target, advance)
    print(f"checkpoint {entry.seq} (step {entry.step}) is {target.uri} log entry {made.seq}")


@checkpoints.command()
def sweep(
    where: Where,
    run: Run = None,
    delete: Annotated[bool, typer.Option(help="Delete them; without it they are only named.")] = False,
) -> None:
    """Find what saves and deletions that were cut short have left; what the run may be saving now is none of it."""
    log = log_of_run(where, run)
    editor = log.editor()
    for folder in editor.sweep() if delete else editor.orphans():
        print(f"{'deleted' if delete else 'orphan'} {log.journal.store.uri}/{folder}")


def find(log: RunLog, which: str) -> Checkpoint:
    """The kept checkpoint that `which` names; BadParameter naming those there are."""
    from finetune_trainer.store import find_checkpoint, listed

    kept = log.history().live
    if (found := find_checkpoint(log, which, kept)) is None:
        there = listed(log, kept)
        raise typer.BadParameter(f"{which!r} is no checkpoint of {log.uri}: write {WHICH}; there are {there}")
    return found


def edit(log: RunLog, change: Callable[[Writer], Changed]) -> Changed:
    """Change the log beside who holds it, again when another attempt takes it over at that moment."""
    from finetune_trainer.store import Fenced

    for _ in range(TAKEOVERS):
        try:
            return change(log.editor())
        except Fenced:
            continue
    return change(log.editor())


def _set_aside(log: RunLog, entry: Checkpoint, why: str) -> None:
    edit(log, lambda editor: editor.quarantine(entry, why))


def _set_pin(where: str, which: str, run: str | None, pinned: bool) -> None:
    log = log_of_run(where, run)
    entry = find(log, which)
    edit(log, lambda editor: editor.pin(entry, pinned))
    print(f"checkpoint {entry.seq} (step {entry.step}) is {'pinned' if pinned else 'not pinned any more'}")


def _problems(log: RunLog, entry: Checkpoint) -> Sequence[str]:
    from finetune_trainer.store import find_problems

    def check(ref: ObjectRef) -> list[str]:
        found = find_problems(log.journal.store, [ref])
        advance(ref)
        return found

    with _progress(entry, f"verifying step {entry.step}") as advance, ThreadPoolExecutor(THREADS) as pool:
        return [problem for found in pool.map(check, entry.objects) for problem in found]


@contextmanager
def _progress(entry: Checkpoint, title: str) -> Iterator[Callable[[ObjectRef], None]]:
    """A bar on stderr over the bytes of a checkpoint, and the function that moves it on by one object."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=sum(ref.size for ref in entry.objects))
        yield lambda ref: bar.advance(task, ref.size)
