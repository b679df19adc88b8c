"""The `finetune` command: subcommands come from the entry points `finetune.commands`, errors become readable text."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points, version
from typing import Annotated, Any

import typer

from finetune_trainer.cli.errors import explain

GROUP = "finetune.commands"
DISTRIBUTION = "finetune-operator"


@dataclass
class Options:
    """Options of `finetune` itself, known once its command line was read."""

    debug: bool = False


def main() -> None:
    """Run the command line; the exit codes are those of `finetune_trainer.errors`, and 2 for wrong usage."""
    build()(prog_name="finetune")


def build() -> typer.Typer:
    """Make the application out of every installed subcommand; modules of commands must import cheaply."""
    app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
    options = Options()

    @app.callback(help="Fine-tune language models from one manifest.")
    def read(
        show_version: Annotated[
            bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
        ] = False,
        debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    ) -> None:
        options.debug = debug

    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        _add(app, point, options)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"finetune {version(DISTRIBUTION)}")
        raise typer.Exit


def _add(app: typer.Typer, point: EntryPoint, options: Options) -> None:
    loaded = point.load()
    if isinstance(loaded, typer.Typer):
        app.add_typer(_reporting_group(loaded, options), name=point.name)
    else:
        app.command(point.name)(reporting(loaded, options))


def _reporting_group(group: typer.Typer, options: Options) -> typer.Typer:
    """A copy of a group of commands whose errors are explained."""
    wrapped = copy.copy(group)
    wrapped.registered_commands = [copy.copy(command) for command in group.registered_commands]
    for command in wrapped.registered_commands:
        if command.callback is not None:
            command.callback = reporting(command.callback, options)
    return wrapped


def reporting(command: Callable[..., None], options: Options) -> Callable[..., None]:
    """Wrap a command so that its errors are explained and become its exit code."""

    @functools.wraps(command)
    def run(*args: Any, **values: Any) -> None:
        try:
            command(*args, **values)
        except (typer.Exit, typer.BadParameter):
            raise
        except Exception as error:
            raise typer.Exit(explain(error, options.debug)) from error

    return run
