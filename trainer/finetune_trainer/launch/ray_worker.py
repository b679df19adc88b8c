"""What runs inside Ray Train: the function of each worker, and the controller's decision about restarts."""

from __future__ import annotations

import logging
import os
import re
import threading
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.train import UserCallback

from finetune_trainer.context import StopSignal
from finetune_trainer.errors import Stopped
from finetune_trainer.launch.decide import Fail, decide, restart_event
from finetune_trainer.launch.elastic import GROW
from finetune_trainer.launch.environment import prepare, redirect_output
from finetune_trainer.launch.folders import data_cache_bytes, staging, workdir
from finetune_trainer.launch.machine import this_machine
from finetune_trainer.launch.outcome import KILLED, Failure, RunFailed, failure_of, killed_for_memory, root_cause
from finetune_trainer.launch.processes import memory_kills
from finetune_trainer.launch.progress import Channel, HttpReporter, ask
from finetune_trainer.launch.rank import Place, Settings, run_rank
from finetune_trainer.launch.ray_memory import memory_killed
from finetune_trainer.launch.shipping import ship_output
from finetune_trainer.spec import parse_job

CONSEQUENCE_GRACE = 5.0
"""Seconds that a rank keeps a broken connection to itself, so that the controller sees its cause first."""

NODE_DIED = "its node has died"
"""What Ray writes of an actor on a node that it has given up."""

ENDED = "failure"
"""Key of the returned dict under which a stop with a commit is handed over."""


def train_worker(manifest: str, entrypoint: str, channel: Channel, attempt: int | None, log_dir: str | None) -> Any:
    """Run one rank inside a Ray Train worker, whose process group is up; all arguments are picklable.

    `log_dir` is None on a cluster, where the output goes to the run's logs in its store as well as to Ray's. A stop
    with a commit is returned and not raised: Ray would kill the ranks that are still on their way out.
    """
    place, job = _place(), parse_job(manifest)
    scratch = workdir(job, os.environ)
    if log_dir is not None:
        redirect_output(Path(log_dir) / f"rank-{place.rank}.log")
    else:
        ship_output(job, attempt, f"rank-{place.rank}", scratch)
    _log_to_stderr()
    prepare(os.environ, place.device, place.local_world_size, this_machine(count_gpus=False).cpus)
    here = log_dir is not None  # `finetune run` has checked this machine, not the nodes of a cluster
    cache = data_cache_bytes(scratch, os.environ)
    settings = Settings(entrypoint, channel, attempt, scratch, staging(job, os.environ), here, cache)
    try:
        return run_rank(job, place, settings, StopSignal())
    except RunFailed as error:
        if error.failure.reason == Stopped.reason:
            return {ENDED: error.failure.to_json()}
        if error.failure.collateral:
            threading.Event().wait(CONSEQUENCE_GRACE)
        raise RunFailed(error.failure) from None  # the cause may not survive pickling; the log has it


def _place() -> Place:
    context = ray.train.get_context()
    return Place(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        local_rank=context.get_local_rank(),
        local_world_size=context.get_local_world_size(),
        device=str(ray.train.torch.get_device()),
    )


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("finetune_trainer")
    logger.setLevel(logging.INFO)
    logger.handlers = [handler]
    logger.propagate = False  # Ray's root handler would write each line a second time, as JSON


class RestartPolicy(UserCallback):
    """Ends the run from the controller when `decide` says so; Ray itself would restart any error.

    Ray calls `after_exception` on each failure of the worker group, and an exception raised there is a controller
    error, which Ray never retries. Node preemptions are left to Ray, which counts them apart and without limit.
    """

    def __init__(self, max_restarts: int, channel: Channel, restarts: int = 0) -> None:
        self._max_restarts = max_restarts
        self._channel = channel
        self._restarts = restarts
        self._memory_kills = memory_kills()

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise RunFailed with the cause, or report the restart that follows."""
        if any(_preempted(error) for error in worker_exceptions.values()):
            return
        kills, self._memory_kills = self._memory_kills, memory_kills()
        failures = [_failure(rank, error, self._memory_kills > kills) for rank, error in worker_exceptions.items()]
        cause = root_cause(failures)
        answer = ask(self._channel)
        stopping = answer.stop_by is not None and answer.reason != GROW
        decision = decide(cause, self._restarts, self._max_restarts, stopping)
        if isinstance(decision, Fail):
            raise RunFailed(told_apart(cause))
        self._restarts = decision.restarts
        with HttpReporter(self._channel) as reporter:
            reporter.report(restart_event(decision, self._max_restarts, cause))


def told_apart(cause: Failure) -> Failure:
    """Say of a process that was killed whether memory was the reason; asks the nodes of a cluster, which takes time."""
    if cause.reason != KILLED or not memory_killed():
        return cause
    return killed_for_memory(cause.rank)


def _preempted(error: Exception) -> bool:
    died = _death(error)
    return died is not None and died.preempted


def _death(error: Exception) -> RayActorError | None:
    """Return how a worker process died, or None when its function raised; Ray wraps a death found by a health check."""
    inner = getattr(error, "health_check_failure", error)
    return inner if isinstance(inner, RayActorError) else None


def _failure(rank: int, error: Exception, out_of_memory: bool) -> Failure:
    died = _death(error)
    if died is None:
        return failure_of(error, rank)
    text = str(died)
    if out_of_memory or killed_by_ray(died):
        return killed_for_memory(rank)
    if NODE_DIED in text:
        return Failure(1, "NodeLost", f"the node of rank {rank} ({_place_of(text)}) is lost", retryable=True, rank=rank)
    message = f"the process of rank {rank} ({_place_of(text)}) was killed or crashed"
    return Failure(1, KILLED, message, retryable=True, rank=rank)


def killed_by_ray(error: BaseException) -> bool:
    """Whether Ray's own memory monitor ended a process, before the kernel had to."""
    return isinstance(error, OutOfMemoryError) or "running low on memory" in str(error)


def _place_of(text: str) -> str:
    return ", ".join(f"{name} {value}" for name, value in re.findall(r"^\s*(pid|ip): (\S+)", text, re.MULTILINE))
