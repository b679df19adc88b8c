"""`finetune data`: what is in a job's data, before anything is trained."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from finetune_trainer.cli.output import Output, OutputOption
from finetune_trainer.errors import DataError

if TYPE_CHECKING:
    from finetune_trainer.data import DataReport, IndexProgress
    from finetune_trainer.spec import FineTuneJob

# What reading and tokenising need: no Ray, no DeepSpeed, and torch only where transformers finds and loads it.
NEEDED = ("boto3", "numpy", "pyarrow", "transformers")

app = typer.Typer(
    help="Look at a job's data.", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
)

Job = Annotated[Path, typer.Argument(help="The manifest.", show_default=False)]
Sample = Annotated[
    int | None,
    typer.Option(min=1, help="Read this many records of each source, and estimate the rest.", show_default=False),
]
Limit = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Most records read of the training data, and of each held-out set; a million if left out.",
        show_default=False,
    ),
]


@app.callback()
def data() -> None:
    """Look at a job's data."""  # with a callback, a group of one command keeps the command's name


@app.command()
def report(job: Job, sample: Sample = None, limit: Limit = None, output: OutputOption = Output.TEXT) -> None:
    """Read and tokenise the data as a run does, and count: tokens, lengths, packing, duplicates, bad records.

    Records are named by their ids; nothing of their content is shown or kept.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise DataError(f"{missing[0]} is not installed: install finetune-operator[trainer]")
    found = _report(job, sample, limit)
    if output is Output.JSON:
        typer.echo(found.model_dump_json(indent=2))
        return
    from finetune_trainer.cli.data_text import print_report

    print_report(found, Console())


def _report(path: Path, sample: int | None, limit: int | None) -> DataReport:
    from finetune_trainer.data import Amount, DataSettings, data_report, job_indices, with_labels
    from finetune_trainer.launch.folders import workdir
    from finetune_trainer.model.fetch import fetch_tokenizer
    from finetune_trainer.model.tokenizer import load_tokenizer
    from finetune_trainer.spec import load_local_job

    job: FineTuneJob = load_local_job(path)
    spec = job.spec
    with _bars() as bars:
        train, *held_out = job_indices(spec, bars.indexed)
        folder = fetch_tokenizer(spec.model.uri, workdir(job, os.environ).parent / "models")
        tokenizer = load_tokenizer(folder, spec.model.chat_template, spec.model.added_tokens)
        sets = {source.name: index for source, index in zip(spec.data.eval, held_out, strict=True)}
        amount = Amount(sample) if limit is None else Amount(sample, limit)
        settings = with_labels(DataSettings.of(spec, 1), spec, train)
        return data_report(train, sets, settings, tokenizer, amount, bars.read)


class _Bars:
    """One bar for the indexing, one for each set that is read."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown
        self._tasks: dict[str, TaskID] = {}

    def indexed(self, state: IndexProgress) -> None:
        """Told by the indexing, in bytes."""
        self._set("indexing, bytes", state.size, state.total_size)

    def read(self, name: str, done: int, total: int) -> None:
        """Told by the reading of a set, in records."""
        self._set(f"reading {name}, records", done, total)

    def _set(self, title: str, done: int, total: int) -> None:
        if title not in self._tasks:
            self._tasks[title] = self._shown.add_task(title)
        self._shown.update(self._tasks[title], completed=done, total=total)


@contextmanager
def _bars() -> Iterator[_Bars]:
    """Bars on a terminal's stderr, gone at the end; nothing elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        yield _Bars(shown)
