"""`finetune plan`: what a job takes in memory, time and money, before anything of it runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune_trainer.cli.output import Output, OutputOption
from finetune_trainer.errors import DeviceOutOfMemory, Problem, SpecError

if TYPE_CHECKING:
    from finetune_trainer.estimate import Estimate, Hardware, ModelShape
    from finetune_trainer.spec import FineTuneJob

Job = Annotated[Path, typer.Argument(help="The manifest.", show_default=False)]
GpuOption = Annotated[str | None, typer.Option("--gpu", help="The GPU's product, for instance H100 or A100-80GB.")]
GpuMemory = Annotated[str | None, typer.Option("--gpu-memory", help="Its memory, for instance 80Gi.")]
Config = Annotated[Path | None, typer.Option(help="config.json of the model, where the manifest does not lead to it.")]
Tokens = Annotated[int | None, typer.Option(min=1, help="Tokens of an epoch, as `finetune data report` says them.")]
Calibrate = Annotated[bool, typer.Option("--calibrate", help="Measure the speed of this machine for a second.")]


def plan(
    job: Job,
    gpu: GpuOption = None,
    gpu_memory: GpuMemory = None,
    config: Config = None,
    tokens: Tokens = None,
    calibrate: Calibrate = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Predict memory, steps, time, checkpoints and their cost. Exit code 12 if the job does not fit."""
    from rich.console import Console

    from finetune_trainer.cli.plan_data import rows_of_an_epoch
    from finetune_trainer.cli.plan_text import show
    from finetune_trainer.estimate import Verdict, estimate
    from finetune_trainer.spec import load_local_job

    manifest = load_local_job(job)
    hardware = _hardware(manifest, gpu, gpu_memory, calibrate)
    model = _model(manifest, config)
    if isinstance(model, int):
        _show_least(manifest, model, hardware, output)
        return
    found = estimate(manifest, model, hardware, rows_of_an_epoch(manifest, tokens))
    if output is Output.JSON:
        typer.echo(json.dumps(as_json(found), indent=2))
    else:
        show(found, Console())
    if found.verdict in (Verdict.TIGHT, Verdict.TOO_LARGE):
        raise typer.Exit(DeviceOutOfMemory.exit_code)


def as_json(found: Estimate) -> dict[str, Any]:
    """All of an estimate in plain values; sizes are in bytes, times in seconds."""
    plain = dataclasses.asdict(found)
    plain["peak"] = {"moment": found.peak.moment, "size": found.peak.size, "parts": found.peak.parts}
    for name in ("lora", "full"):
        options = getattr(found.setup, name)
        plain["setup"][name] = options and options.model_dump(mode="json")
    plain["work"]["seconds"] = found.work.seconds
    plain["parameters"] = found.shape.parameters
    return plain


def _model(job: FineTuneJob, config: Path | None) -> ModelShape | int:
    """The model's shape, or the number of its parameters where its architecture has no formula."""
    from finetune_trainer.estimate import UnknownArchitecture, known_shape, read_shape

    uri = job.spec.model.uri
    try:
        if config is not None:
            return read_shape(json.loads(config.read_text(encoding="utf-8")))
        if (known := known_shape(uri)) is not None:
            return known
        from finetune_trainer.model.sizes import sizes_of_model

        found = sizes_of_model(uri)
    except (OSError, UnknownArchitecture, ValueError) as error:
        path, value = ("--config", str(config)) if config else ("spec.model.uri", uri)
        raise SpecError([Problem(path, value, f"cannot be estimated: {error}")]) from error
    if found is None:
        remedy = "is not in the table of known models: name its config.json by --config"
        raise SpecError([Problem("spec.model.uri", uri, remedy)])
    return found


def _show_least(job: FineTuneJob, parameters: int, hardware: Hardware, output: Output) -> None:
    """All that can be said of a model by the number of its parameters."""
    from finetune_trainer.estimate import least_of

    needed, memory = least_of(job, parameters), hardware.memory
    fits = memory is None or needed <= memory
    if output is Output.JSON:
        verdict = "Unknown" if fits else "TooLarge"
        typer.echo(json.dumps({"parameters": parameters, "least": needed, "verdict": verdict}, indent=2))
    else:
        typer.echo(
            f"its architecture has no formula, {parameters:,} parameters alone are known: weights, gradients and "
            f"optimizer state take at least {needed / 2**30:.1f} GiB on each rank"
            + ("" if memory is None else f" of {memory / 2**30:.1f} GiB")
        )
    if not fits:
        raise typer.Exit(DeviceOutOfMemory.exit_code)


def _hardware(job: FineTuneJob, product: str | None, memory: str | None, calibrate: bool) -> Hardware:
    from finetune_trainer.estimate import GPUS, Hardware, find_gpu
    from finetune_trainer.spec.quantity import MEMORY_PATTERN, memory_bytes

    gpu = find_gpu(product) if product else None
    if product and gpu is None and memory is None:
        names = ", ".join(one.name for one in GPUS)
        raise typer.BadParameter(
            f"{product} is not known: add --gpu-memory, or name one of {names}", param_hint="--gpu"
        )
    if memory is not None and not _matches(MEMORY_PATTERN, memory):
        raise typer.BadParameter(f"{memory} is no amount of memory: write for instance 80Gi", param_hint="--gpu-memory")
    if (product or memory) and job.spec.workers.gpus_per_replica == 0:
        raise typer.BadParameter(
            "the job asks for no GPU: leave it out, or write spec.workers.gpusPerReplica",
            param_hint="--gpu" if product else "--gpu-memory",
        )
    resources = job.spec.workers.resources
    host = memory_bytes(resources.memory) if resources and resources.memory else None
    on_gpu = job.spec.workers.gpus_per_replica > 0
    own = memory_bytes(memory) if memory else gpu.memory if gpu else None
    speed = _calibrated(on_gpu) if calibrate else gpu.teraflops if gpu else None
    name = product or ("a GPU" if on_gpu else "a worker")
    return Hardware(name, own if on_gpu else host, host, speed or None)


def _matches(pattern: str, text: str) -> bool:
    import re

    return re.match(pattern, text) is not None


def _calibrated(on_gpu: bool) -> float:
    """Teraflops of a product of two matrices of 4096 (on a CPU 1024) on this machine, the best of five."""
    import time

    import torch

    device = torch.device("cuda" if on_gpu and torch.cuda.is_available() else "cpu")
    size, kind = (4096, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    left = torch.ones(size, size, dtype=kind, device=device)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        (left @ left).sum().item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e12
