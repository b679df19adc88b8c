"""One rank of a run, for `torchrun -m finetune_trainer.main job.yaml`; without torchrun, the only rank."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import FrameType

from finetune_trainer.context import StopSignal, process_group_backend
from finetune_trainer.errors import Problem, SpecError, Stopped
from finetune_trainer.launch.environment import loopback, prepare, redirect_output
from finetune_trainer.launch.error_file import write_error_file
from finetune_trainer.launch.folders import data_cache_bytes, staging, workdir
from finetune_trainer.launch.machine import check_machine, this_machine, with_workers
from finetune_trainer.launch.outcome import Failure, failure_of
from finetune_trainer.launch.processes import die_with_parent
from finetune_trainer.launch.progress import channel_of
from finetune_trainer.launch.rank import ATTEMPT, LOG_DIR, LOOP, Place, Settings, run_rank
from finetune_trainer.spec import FineTuneJob, load_local_job, ranks


def main(argv: Sequence[str] | None = None) -> int:
    """Run this rank and return its exit code."""
    arguments = _parse(argv)
    rank = int(os.environ.get("RANK", "0"))
    if log_dir := os.environ.get(LOG_DIR):
        redirect_output(Path(log_dir) / f"rank-{rank}.log")
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent()
    stop = StopSignal()
    _stop_on_signals(stop)
    try:
        _run(arguments, stop)
    except BaseException as error:
        failure = failure_of(error, rank)
        write_error_file(failure, os.environ)
        _show(failure)
        if failure.reason != Stopped.reason:
            sys.stdout.flush()
            os._exit(failure.exit_code)  # a broken process group may never let the interpreter end by itself
        return failure.exit_code
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="finetune_trainer.main", description=__doc__)
    parser.add_argument("job", type=Path, help="the manifest")
    parser.add_argument("--workers", type=int, help="instead of spec.workers.replicas; the global batch stays the same")
    parser.add_argument("--gpus", type=int, help="instead of spec.workers.gpusPerReplica; 0 trains on the CPU")
    parser.add_argument("--checked", action="store_true", help="what the job reads and writes was checked already")
    parser.add_argument("--entrypoint", default=LOOP, help="training loop to call, as module:function")
    return parser.parse_args(argv)


def _run(arguments: argparse.Namespace, stop: StopSignal) -> None:
    job = load_local_job(arguments.job)
    job = with_workers(job, arguments.workers, arguments.gpus)
    place = place_of(job, os.environ)
    machine = this_machine(count_gpus=place.device != "cpu")
    if place.local_world_size == place.world_size:
        check_machine(job, machine)
        loopback(os.environ)
    prepare(os.environ, place.device, place.local_world_size, machine.cpus)
    attempt = os.environ.get(ATTEMPT)
    settings = Settings(
        arguments.entrypoint,
        channel_of(os.environ),
        int(attempt) if attempt else None,
        scratch := workdir(job, os.environ),
        staging(job, os.environ),
        arguments.checked,
        data_cache_bytes(scratch, os.environ),
    )
    _join_process_group(place, job.spec.no_progress_deadline_seconds)
    try:
        run_rank(job, place, settings, stop)
    except BaseException as error:
        if failure_of(error).reason == Stopped.reason:
            _leave_process_group()
        raise
    _leave_process_group()


def place_of(job: FineTuneJob, environ: Mapping[str, str]) -> Place:
    """Read this rank's place from torchrun's variables; without them it is the only one.

    Raises SpecError when the manifest asks for another number of ranks than were started.
    """
    rank, size = int(environ.get("RANK", "0")), int(environ.get("WORLD_SIZE", "1"))
    if size != ranks(job):
        workers = job.spec.workers
        asked = f"asks for {ranks(job)} ranks (replicas x gpusPerReplica) and {size} were started"
        remedy = f"start torchrun with --nproc-per-node {ranks(job)}, or add `--workers {size} --gpus 0` after the job"
        raise SpecError([Problem("spec.workers.replicas", workers.replicas, f"{asked}; {remedy}")])
    local_rank = int(environ.get("LOCAL_RANK", "0"))
    device = f"cuda:{local_rank}" if job.spec.workers.gpus_per_replica else "cpu"
    return Place(rank, size, local_rank, int(environ.get("LOCAL_WORLD_SIZE", "1")), device)


def _join_process_group(place: Place, timeout: float) -> None:
    import torch
    from torch import distributed

    if place.device != "cpu":
        torch.cuda.set_device(torch.device(place.device))
    backend = process_group_backend(place.device != "cpu")
    if "MASTER_ADDR" not in os.environ:
        alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        os.environ.update(alone, MASTER_ADDR="127.0.0.1", MASTER_PORT="0")  # port 0: any that is free
    distributed.init_process_group(backend, timeout=timedelta(seconds=timeout))


def _leave_process_group() -> None:
    """Wait for the other ranks, so that none is still busy when the first one's exit ends them all."""
    from torch import distributed

    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def _stop_on_signals(stop: StopSignal) -> None:
    def handle(number: int, frame: FrameType | None) -> None:
        stop.request(f"{signal.Signals(number).name} received")
        signal.signal(number, signal.SIG_DFL)  # the second one ends the process

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


def _show(failure: Failure) -> None:
    """Print why this rank ended, once: what another rank caused is left to that rank, what all ranks see to rank 0."""
    if failure.collateral or (failure.reason in (Stopped.reason, SpecError.reason) and failure.rank != 0):
        return
    text = failure.traceback or f"{failure.reason}: {failure.message}"
    print(f"rank {failure.rank}: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
