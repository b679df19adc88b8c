"""`finetune prepare`: read and tokenise a job's data once, for every job with the same data and tokenizer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from finetune_trainer.prepare import Prepared

Job = Annotated[Path, typer.Argument(help="The manifest.", show_default=False)]
To = Annotated[
    str | None,
    typer.Option("--to", help="s3:// or file:// location that takes the tokens, instead of spec.checkpoint.uri."),
]


def prepare(job: Job, to: To = None) -> None:
    """Store the tokens of a manifest's data where its runs, and others with the same data and tokenizer, find them."""
    from finetune_trainer.launch.folders import workdir
    from finetune_trainer.prepare import prepare as publish
    from finetune_trainer.spec import load_local_job

    manifest = load_local_job(job)
    for one in publish(manifest, workdir(manifest, os.environ).parent / "models", to, _ignore):
        typer.echo(_line(one))


def _ignore(event: Mapping[str, object]) -> None:
    """Progress of the first pass is for runs that are watched."""


def _line(one: Prepared) -> str:
    index = one.form.index
    what = f"{index.records} records, {index.tokens} tokens, {sum(index.sizes)} bytes"
    refused = f", {index.refused} records cannot be used" if index.refused else ""
    how = "was there already" if one.found else "published"
    return f"{one.uri}: {what}{refused}; token form {one.form.id} {how} in {one.form.store.uri}/{index.key}"
