"""`finetune validate`: every mistake of every manifest at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from finetune_trainer.cli.errors import write_problems
from finetune_trainer.cli.output import Output, OutputOption
from finetune_trainer.errors import Problem, SpecError


def validate(
    jobs: Annotated[list[Path], typer.Argument(help="Manifests to check.", show_default=False)],
    output: OutputOption = Output.TEXT,
) -> None:
    """Check manifests; every mistake with its place, what was found and what to write. Exit code 10 if there is any."""
    found = {job: _problems(job) for job in jobs}
    if output is Output.JSON:
        typer.echo(json.dumps([_json(job, problems) for job, problems in found.items()], indent=2))
    else:
        for job, problems in found.items():
            if problems:
                write_problems(problems, prefix=f"{job}: ")
            else:
                typer.echo(f"{job}: valid")
    if any(found.values()):
        raise typer.Exit(SpecError.exit_code)


def _problems(path: Path) -> tuple[Problem, ...]:
    from finetune_trainer.spec import load_job

    try:
        load_job(path)
    except SpecError as error:
        return error.problems
    return ()


def _json(job: Path, problems: tuple[Problem, ...]) -> dict[str, object]:
    plain = [{"path": p.path, "value": _plain(p.value), "message": p.message} for p in problems]
    return {"file": str(job), "valid": not problems, "problems": plain}


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | float | bool | None) else repr(value)
