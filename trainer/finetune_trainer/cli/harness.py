"""`finetune harness`: tasks of lm-evaluation-harness on what a job exported, and on the model that it began with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from finetune_trainer.cli.output import Output, OutputOption
from finetune_trainer.errors import DataError

if TYPE_CHECKING:
    from finetune_trainer.spec import FineTuneJob

BATCH = 8
ADAPTER = "adapter_config.json"
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
"""Tasks read data that is here: an evaluation that fetches its questions measures another thing each year."""

Job = Annotated[Path, typer.Argument(help="The manifest of a job that has run.", show_default=False)]
Tasks = Annotated[list[str], typer.Option("--task", help="Name of a task; once for each.", show_default=False)]
TaskFolder = Annotated[
    Path, typer.Option("--tasks", help="Folder of task files (YAML), with their data beside.", show_default=False)
]
Limit = Annotated[int | None, typer.Option(min=1, help="Questions of each task; all when left out.")]

Arguments = dict[str, str]


def harness(job: Job, task: Tasks, tasks: TaskFolder, limit: Limit = None, output: OutputOption = Output.TEXT) -> None:
    """Run tasks of lm-evaluation-harness on a job's base model and on its exported one, without a network."""
    if find_spec("lm_eval") is None:
        raise DataError("lm-evaluation-harness is not installed: install finetune-operator[eval]")
    from finetune_trainer.spec import load_local_job

    models = model_arguments(load_local_job(job))
    os.environ.update(OFFLINE)
    found = {name: _evaluate(arguments, task, tasks, limit) for name, arguments in models.items()}
    if output is Output.JSON:
        typer.echo(json.dumps(found))
    else:
        Console().print(_table(found))


def model_arguments(job: FineTuneJob) -> dict[str, Arguments]:
    """What the harness's `hf` model takes for the one at `spec.model.uri`, `base`, and for the exported one, `tuned`.

    DataError for a model that is not on this machine, is not exported yet, or is no language model.
    """
    from finetune_trainer.export.adapter import base_reference
    from finetune_trainer.spec import OBJECTIVES

    kind = job.spec.objective.type
    if OBJECTIVES[kind].scores:
        raise DataError(f"spec.objective.type: {kind} trains a model that scores texts, and tasks ask a language model")

    base, place = job.spec.model.uri, job.spec.output.uri
    if base.startswith("s3://") or place.startswith("s3://"):
        uri, field = (base, "spec.model.uri") if base.startswith("s3://") else (place, "spec.output.uri")
        raise DataError(f"{field}: {uri} is not on this machine: copy it, and name the copy in the manifest")
    folder = Path(place.removeprefix("file://"))
    if not (folder / ADAPTER).exists() and not (folder / "config.json").exists():
        raise DataError(f"spec.output.uri: no model was exported to {folder} yet: run the job first")
    name, revision = base_reference(base)
    before = {"pretrained": name} | ({"revision": revision} if revision else {})
    after = before | {"peft": str(folder)} if (folder / ADAPTER).exists() else {"pretrained": str(folder)}
    return {"base": before, "tuned": after}


def _evaluate(arguments: Arguments, names: list[str], folder: Path, limit: int | None) -> dict[str, Any]:
    """The harness's metrics of each task, those that are numbers."""
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    found = simple_evaluate(
        model="hf",
        model_args=arguments,
        tasks=names,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        device="cuda" if torch.cuda.is_available() else "cpu",
        batch_size=BATCH,
        limit=limit,
        log_samples=False,
        bootstrap_iters=0,
    )
    results: Mapping[str, Mapping[str, Any]] = found["results"]
    return {
        task: {name: value for name, value in of.items() if _is_metric(name, value)} for task, of in results.items()
    }


def _is_metric(name: str, value: object) -> bool:
    return isinstance(value, int | float) and "," in name and "_stderr" not in name


def _table(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    table = Table("task", "metric", "base model", "exported", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for task, metrics in found["tuned"].items():
        for name, value in metrics.items():
            table.add_row(task, name.partition(",")[0], f"{found['base'][task][name]:.4f}", f"{value:.4f}")
    return table
