"""`finetune probe`: whether a store can hold commits."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer

from finetune_trainer.errors import StorageError

Where = Annotated[str, typer.Argument(help="s3://bucket/prefix or file:///folder.", show_default=False)]


def probe(where: Where) -> None:
    """Write, read back and delete one small object, as each job does before it starts. Exit code 14 if that fails."""
    if find_spec("boto3") is None:
        raise StorageError("boto3 is not installed: install finetune-operator[trainer]")
    from finetune_trainer.store import open_store, probe

    probe(open_store(where))
    typer.echo(f"{where}: takes conditional writes, as commits need them")
