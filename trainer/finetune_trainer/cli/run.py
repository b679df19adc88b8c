"""`finetune run`: one manifest, from here to the exported model."""

from __future__ import annotations

import functools
import json
import os
from contextlib import AbstractContextManager, ExitStack, nullcontext
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from finetune_trainer.cli.output import Output, OutputOption
from finetune_trainer.errors import FinetuneError, Stopped

if TYPE_CHECKING:
    from finetune_trainer.launch.launcher import Launcher, Lines, Plan
    from finetune_trainer.launch.outcome import Failure
    from finetune_trainer.launch.render import AnyView
    from finetune_trainer.launch.supervisor import Ended


class LauncherName(StrEnum):
    """What starts the ranks."""

    RAY = "ray"
    TORCHRUN = "torchrun"


Job = Annotated[Path, typer.Argument(help="The manifest.", show_default=False)]
Launch = Annotated[LauncherName, typer.Option(help="Ray Train, or torchrun without Ray.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Instead of spec.workers.replicas; the global batch stays the same.")
]
Gpus = Annotated[int | None, typer.Option(min=0, help="Instead of spec.workers.gpusPerReplica; 0 trains on the CPU.")]
Address = Annotated[
    str | None, typer.Option(help="A Ray cluster that runs already: auto, host:port or ray://host:port.")
]
Entrypoint = Annotated[str | None, typer.Option(hidden=True, help="Another training loop, as module:function.")]


def run(
    job: Job,
    launcher: Launch = LauncherName.RAY,
    workers: Workers = None,
    gpus: Gpus = None,
    address: Address = None,
    output: OutputOption = Output.TEXT,
    entrypoint: Entrypoint = None,
) -> None:
    """Run a manifest here, or continue it from its last checkpoint. Ctrl-C stops it after a checkpoint."""
    from finetune_trainer.launch.render import choose_view

    if address is not None and launcher is LauncherName.TORCHRUN:
        raise typer.BadParameter("a Ray cluster needs --launcher ray", param_hint="--address")
    plan = _plan(job, workers, gpus, address, entrypoint)
    console = Console()
    with _stored_output(plan, address), plan.folder.locked():
        plan.folder.write_manifest(plan.job)
        with choose_view(output is Output.JSON, console) as view:
            _introduce(view, plan, address)
            ended = _supervise(view, plan, launcher, address)
        if address is None:
            _free_memory(plan, ended)
        _conclude(ended, plan, console, output)
    raise typer.Exit(ended.exit_code)


def _free_memory(plan: Plan, ended: Ended) -> None:
    """Give up the copies of checkpoints in memory, unless the same run, started again, may need them."""
    from finetune_trainer.launch.folders import staging
    from finetune_trainer.staged import forget_staged

    if ended.failure is None or ended.exit_code == Stopped.exit_code or not ended.failure.retryable:
        forget_staged(staging(plan.job, os.environ))


def _plan(path: Path, workers: int | None, gpus: int | None, address: str | None, entrypoint: str | None) -> Plan:
    from finetune_trainer.launch.environment import prepare
    from finetune_trainer.launch.folders import run_folder, workdir
    from finetune_trainer.launch.launcher import Plan
    from finetune_trainer.launch.machine import check_machine, this_machine, with_workers
    from finetune_trainer.launch.rank import ATTEMPT, LOOP
    from finetune_trainer.spec import load_local_job, ranks

    job = with_workers(load_local_job(path), workers, gpus)
    local = address is None
    machine = this_machine(count_gpus=local and job.spec.workers.gpus_per_replica > 0)
    if local:
        check_machine(job, machine)
        prepare(os.environ, "cuda" if job.spec.workers.gpus_per_replica else "cpu", ranks(job), machine.cpus)
    attempt = os.environ.get(ATTEMPT)
    folder = run_folder(job, os.environ)
    number = int(attempt) if attempt else None
    return Plan(job, machine, folder, workdir(job, os.environ), number, entrypoint or LOOP)


def _stored_output(plan: Plan, address: str | None) -> AbstractContextManager[None]:
    """In an attempt that the operator started, what this command writes goes to the run's logs too."""
    if address is None or plan.attempt is None:
        return nullcontext()
    from finetune_trainer.launch.shipping import shipped_output
    from finetune_trainer.store.streams import LAUNCHER

    return shipped_output(plan.job, plan.attempt, LAUNCHER, plan.workdir)


def _introduce(view: AnyView, plan: Plan, address: str | None) -> None:
    from finetune_trainer.spec import ignored_locally, ranks, run_id

    job = plan.job
    view.note(f"{run_id(job)}: {job.spec.method.type} {job.spec.objective.type} on {ranks(job)} ranks")
    if address is None:
        if ignored := ignored_locally(job):
            view.note(f"no effect here, only on a cluster: {', '.join(ignored)}")
        view.note(f"logs of the ranks: {plan.folder.logs}")


def _check(plan: Plan, view: AnyView, address: str | None) -> Failure | None:
    """Check the image, what our loop will read and write, and its memory, before any worker starts."""
    from finetune_trainer.launch.fitting import check_fits
    from finetune_trainer.launch.outcome import failure_of
    from finetune_trainer.launch.rank import LOOP
    from finetune_trainer.launch.ray_environment import check_version
    from finetune_trainer.preflight import preflight

    try:
        check_version(os.environ)
        if plan.entrypoint == LOOP:
            preflight(plan.job)
            if warning := check_fits(plan.job, os.environ, local=address is None):
                view.note(warning)
    except FinetuneError as error:
        return failure_of(error)
    return None


def _supervise(view: AnyView, plan: Plan, launcher: LauncherName, address: str | None) -> Ended:
    from finetune_trainer.context import StopSignal
    from finetune_trainer.launch.progress import LAST_REPORTS, HttpReporter, channel_of
    from finetune_trainer.launch.ray_environment import reachable_address
    from finetune_trainer.launch.supervisor import Deadlines, Ended, Supervisor, grace_of

    spec = plan.job.spec
    grace = grace_of(plan.job, os.environ)
    deadlines = Deadlines(spec.start_deadline_seconds, spec.no_progress_deadline_seconds, grace)
    stop = StopSignal()
    with ExitStack() as stack:
        listener = channel_of(os.environ)
        upstream = HttpReporter(listener, stop) if listener else None
        if upstream is not None:
            stack.callback(upstream.close, LAST_REPORTS)
        if failure := _check(plan, view, address):
            if upstream is not None:
                upstream.report(failure.event())
            return Ended(failure.exit_code, failure=failure)
        supervisor = Supervisor(view, stop, deadlines, upstream)
        return supervisor.supervise(functools.partial(_make, plan, launcher, address), reachable_address(address))


def _make(plan: Plan, launcher: LauncherName, address: str | None, lines: Lines) -> Launcher:
    if launcher is LauncherName.TORCHRUN:
        from finetune_trainer.launch.torchrun import TorchrunLauncher

        return TorchrunLauncher(plan, lines)
    from finetune_trainer.launch.ray_environment import configure

    if find_spec("ray") is None:
        raise FinetuneError("Ray is not installed: install finetune-operator[trainer], or add `--launcher torchrun`")
    lines.emit({"kind": "phase", "name": "loading Ray"})
    configure(os.environ, local=address is None)
    from finetune_trainer.launch.ray_train import RayLauncher

    return RayLauncher(plan, lines, address)


def _conclude(ended: Ended, plan: Plan, console: Console, output: Output) -> None:
    """Say how the run ended, once and in one place."""
    failure = ended.failure
    if output is Output.JSON:
        print(json.dumps({"kind": "ended", "exitCode": ended.exit_code, "failure": failure and failure.event()}))
        return
    if failure is None:
        return
    if ended.exit_code == Stopped.exit_code:
        console.print(f"{failure.message}\nrun the same command again to continue", style="yellow", highlight=False)
        return
    who = f"rank {failure.rank}, " if failure.rank is not None else ""
    console.print(
        Text.assemble((f"{failure.reason} ({who}exit code {ended.exit_code}): ", "bold red"), failure.message)
    )
    if failure.traceback:
        with (plan.folder.logs / "launcher.log").open("a", encoding="utf-8") as log:
            log.write(failure.traceback)
    console.print(f"logs: {plan.folder.logs}", style="dim", highlight=False)
