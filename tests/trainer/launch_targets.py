"""Small training loops for launcher tests, called in real ranks as `launch_targets:<name>`."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import torch
from torch import distributed

from finetune_trainer.errors import DataError, Stopped, StorageError
from finetune_trainer.launch.context import RunContext
from finetune_trainer.spec import FineTuneJob, run_id

Result = dict[str, object]


def succeed(job: FineTuneJob, context: RunContext) -> Result:
    """Sum the ranks by a collective, and say where each of them ran."""
    context.reporter.report({"kind": "phase", "name": "training"})
    places: list[object] = [None] * context.world_size
    distributed.all_gather_object(places, [context.rank, context.local_rank, context.local_world_size, context.device])
    step(context, 1, 1)
    return {"sum": add_ranks(context), "places": places, "attempt": context.attempt, "job": job.metadata.name}


def environment(job: FineTuneJob, context: RunContext) -> Result:
    """Return what the rank sees of the environment that matters to it."""
    names = ("AWS_SECRET_ACCESS_KEY", "DS_ACCELERATOR", "OMP_NUM_THREADS", "PWD", "RAY_RUNTIME_ENV")
    return {"cwd": str(Path.cwd()), **{name: os.environ.get(name) for name in names}}


def bad_data(job: FineTuneJob, context: RunContext) -> Result:
    """Rank 1 has a user's error, while rank 0 waits for it in a collective; each start leaves a trace."""
    started(context)
    if context.rank == 1:
        raise DataError("file:///data/a.jsonl: record 7 has no messages; write a list of role and content")
    return {"sum": add_ranks(context)}


def wrong_type(job: FineTuneJob, context: RunContext) -> Result:
    """Every rank has a programming error."""
    started(context)
    return {"sum": 1 + "1"}  # type: ignore[operator]


def killed_once(job: FineTuneJob, context: RunContext) -> Result:
    """Rank 1 is killed the first time and the run succeeds the second time."""
    starts = started(context)
    step(context, 1, 2)
    if context.rank == 1 and starts == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"sum": add_ranks(context), "starts": starts}


def speaking(job: FineTuneJob, context: RunContext) -> Result:
    """Every rank writes, and rank 1 is killed the first time, right after a last word."""
    starts = started(context)
    os.write(1, f"start {starts}: from C\n".encode())
    add_ranks(context)
    if context.rank == 1 and starts == 1:
        print("start 1: a last word")
        os.kill(os.getpid(), signal.SIGKILL)
    return {"sum": add_ranks(context), "starts": starts}


def always_killed(job: FineTuneJob, context: RunContext) -> Result:
    """Rank 1 is killed each time."""
    started(context)
    if context.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"sum": add_ranks(context)}


def stopping_slowly(job: FineTuneJob, context: RunContext) -> Result:
    """Like `until_stopped`, with a checkpoint that takes 4 s."""
    return until_stopped(job, context, commit=4.0)


def until_stopped(job: FineTuneJob, context: RunContext, commit: float = 0.0) -> Result:
    """Step until all ranks agree that a stop was requested."""
    wake = threading.Event()
    for number in range(1, 10_000):
        step(context, number, 10_000)
        wake.wait(0.05)  # a training step
        requested = torch.tensor([int(context.stop.requested)])
        distributed.all_reduce(requested, op=distributed.ReduceOp.MAX)
        if requested.item():
            wake.wait(commit)
            raise Stopped(f"stopped at step {number}; a checkpoint was committed")
    raise AssertionError("nobody asked for a stop")


def deaf(job: FineTuneJob, context: RunContext) -> Result:
    """Report progress for ever and ignore requests to stop."""
    started(context)
    wake = threading.Event()
    number = 0
    while True:
        number += 1
        step(context, number, 10_000)
        wake.wait(0.05)  # a training step


def hang(job: FineTuneJob, context: RunContext) -> Result:
    """Rank 1 never comes to the collective."""
    started(context)
    if context.rank == 1:
        threading.Event().wait()
    return {"sum": add_ranks(context)}


def out_of_device_memory(job: FineTuneJob, context: RunContext) -> Result:
    """Raise what torch raises on a full GPU."""
    started(context)
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def out_of_host_memory(job: FineTuneJob, context: RunContext) -> Result:
    """Ask torch for more memory than any host has."""
    started(context)
    return {"bytes": torch.empty(1 << 55, dtype=torch.uint8).numel()}


def storage_gone(job: FineTuneJob, context: RunContext) -> Result:
    """Raise what the store raises when the retries are used up."""
    started(context)
    raise StorageError("s3://bucket/runs cannot be reached: check the network and AWS_ENDPOINT_URL")


def killed_after_a_commit(job: FineTuneJob, context: RunContext) -> Result:
    """The real training loop, whose rank 1 is killed, the first time only, once a first checkpoint is committed."""
    from finetune_trainer.loop import train  # which the other targets do not need
    from finetune_trainer.store import RunLog, open_store

    log = RunLog(open_store(job.spec.checkpoint.uri), run_id(job))

    def kill() -> None:
        while not log.checkpoints():
            threading.Event().wait(0.01)  # between two looks
        os.kill(os.getpid(), signal.SIGKILL)

    if started(context) == 1 and context.rank == 1:
        threading.Thread(target=kill, daemon=True).start()
    return train(job, context)


def add_ranks(context: RunContext) -> int:
    """Sum rank + 1 over all ranks."""
    value = torch.tensor([context.rank + 1])
    distributed.all_reduce(value)
    return int(value.item())


def step(context: RunContext, number: int, total: int) -> None:
    """Report one step."""
    event = {"kind": "progress", "step": number, "totalSteps": total, "percent": 100 * number / total, "epoch": 0.0}
    context.reporter.report({**event, "loss": 2.0, "tokens": 100 * number, "tokensPerSecond": 50.0})


def started(context: RunContext) -> int:
    """Note that this rank was started, and return how often it was."""
    file = context.workdir / f"starts-{context.rank}.json"
    pids = [*(json.loads(file.read_text()) if file.exists() else []), os.getpid()]
    file.write_text(json.dumps(pids))
    return len(pids)
