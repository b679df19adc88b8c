"""The launcher on Ray Train V2: one worker of a TorchTrainer is one rank.

Ray Train is used for placement, the process group and restarts, and for nothing that is stored: no checkpoint is ever
reported to it, not even with NO_UPLOAD, so that it has nothing to upload and no state of its own that a kill can leave
torn (docs/adr/0008). A restarted rank reads our own log. `storage_path` and `name` follow from the run id.
"""

from __future__ import annotations

import functools
import json
import math
import os
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from finetune_trainer.context import process_group_backend
from finetune_trainer.launch.elastic import rank_range
from finetune_trainer.launch.environment import loopback, prepare
from finetune_trainer.launch.launcher import Lines, Plan
from finetune_trainer.launch.outcome import KILLED, Failure, RunFailed, failure_of, killed_for_memory, root_cause
from finetune_trainer.launch.ray_cluster import cluster
from finetune_trainer.launch.ray_elastic import growing, wait_for_all
from finetune_trainer.launch.ray_worker import ENDED, RestartPolicy, killed_by_ray, told_apart, train_worker
from finetune_trainer.spec import ranks, run_id, to_manifest
from finetune_trainer.spec.quantity import cpu_cores

PLACEMENT_TIMEOUT = 60
"""Seconds that Ray Train waits for room for all workers before it asks again; its own default."""


NEVER_BY_ITSELF: dict[str, Any] = {"elastic_resize_monitor_interval_s": 1e9}
"""Ray's own resizing throws away what was trained since the last commit: only starts choose the number of ranks."""


class RayLauncher:
    """Runs a TorchTrainer on a Ray of its own (address None) or on a cluster."""

    def __init__(self, plan: Plan, lines: Lines, address: str | None = None) -> None:
        self._plan = plan
        self._lines = lines
        self._address = address

    def run(self) -> None:
        """Start Ray and the workers, and return when all of them ended well."""
        if self._address is None:
            loopback(os.environ)
            device = "cuda" if self._plan.job.spec.workers.gpus_per_replica else "cpu"
            prepare(os.environ, device, ranks(self._plan.job), self._plan.machine.cpus)
        self._phase("starting Ray" if self._address is None else "connecting to Ray")
        with cluster(self._address, self._plan.machine):
            if self._elastic:
                self._grow()
            else:
                self._once()

    def abort(self) -> None:
        """End Ray, or this process's part in the cluster: the controller and with it the workers."""
        ray.shutdown()

    @property
    def _elastic(self) -> bool:
        """Whether the number of ranks may change; on one machine it does not."""
        fewest, most = rank_range(self._plan.job)
        return self._address is not None and fewest < most

    def _phase(self, name: str, detail: str = "") -> None:
        self._lines.emit({"kind": "phase", "name": name, "detail": detail})

    def _once(self) -> None:
        """Start the ranks and return when they have ended well; RunFailed otherwise."""
        self._phase("starting workers", f"{ranks(self._plan.job)} ranks")
        if (failure := self._fit()) is not None:
            raise RunFailed(failure)

    def _grow(self) -> None:
        """The same with as many ranks as fit, again and again as more do."""
        fewest, most = rank_range(self._plan.job)
        each, per_rank = self._plan.job.spec.workers.ranks_per_replica, resources_per_worker(self._plan, local=False)
        starting = ("starting workers", f"{fewest} to {most} ranks")
        self._phase(*starting)
        wait_for_all(most, per_rank, lambda: self._lines.stop.requested)
        while True:
            with growing(each, per_rank, self._lines):
                failure = self._fit()
            if failure is None:
                return
            if self._lines.stop.requested or not self._lines.resize.take():
                raise RunFailed(failure)
            self._lines.emit({"kind": "resize"})
            self._phase(*starting)

    def _fit(self) -> Failure | None:
        """Start the ranks; returns their stop with a commit. RunFailed for all other ends but a good one."""
        try:
            result = self._trainer().fit()
        except TrainingFailedError as error:
            raise RunFailed(_cause(error)) from None
        except RayError as error:
            raise RunFailed(Failure(1, "RayFailed", f"Ray ended: {error}", retryable=True)) from error
        returned: dict[str, Any] = result.return_value or {}  # type: ignore[attr-defined]  # mypy sees Ray Train V1
        return Failure.from_json(returned[ENDED]) if ENDED in returned else None

    def _trainer(self) -> TorchTrainer:
        job, folder = self._plan.job, self._plan.folder
        local = self._address is None
        worker = functools.partial(
            train_worker,
            manifest=json.dumps(to_manifest(job)),
            entrypoint=self._plan.entrypoint,
            channel=self._lines.channel,
            attempt=self._plan.attempt,
            log_dir=str(folder.logs) if local else None,
        )
        most_restarts = job.spec.failure_policy.max_restarts
        policy: Any = RestartPolicy(most_restarts, self._lines.channel, self._lines.restarts())
        gpu = job.spec.workers.gpus_per_replica > 0
        failures = FailureConfig(
            max_failures=-1,  # RestartPolicy counts, by the rule that torchrun runs follow too
            controller_failure_limit=placement_attempts(  # type: ignore[call-arg]  # mypy sees Ray Train V1
                job.spec.start_deadline_seconds, local
            ),
        )
        return TorchTrainer(
            worker,
            torch_config=TorchConfig(process_group_backend(gpu), timeout_s=job.spec.no_progress_deadline_seconds),
            scaling_config=ScalingConfig(
                num_workers=(
                    rank_range(job) if self._elastic else ranks(job)  # type: ignore[arg-type]  # Ray Train V1 again
                ),
                use_gpu=gpu,
                resources_per_worker=resources_per_worker(self._plan, local),
                **NEVER_BY_ITSELF,
            ),
            run_config=RunConfig(
                name=run_id(job),
                storage_path=str(folder.path / "ray"),
                failure_config=failures,
                callbacks=[policy],
            ),
        )


def resources_per_worker(plan: Plan, local: bool) -> dict[str, float]:
    """Return what Ray reserves for one rank.

    Locally the cores are shared out, so that all ranks fit; on a cluster each gets its part of `spec.workers.resources`
    of its pod, in whole cores as Ray counts a node's (half a core would let two pods' ranks into one), or one core.
    """
    workers = plan.job.spec.workers
    gpu = {"GPU": 1.0} if workers.gpus_per_replica else {}
    if local:
        share = plan.machine.cpus / ranks(plan.job)
        return {"CPU": min(1.0, int(share * 100) / 100), **gpu}
    cpu = workers.resources.cpu if workers.resources else None
    return {"CPU": math.ceil(cpu_cores(cpu)) / workers.ranks_per_replica if cpu else 1.0, **gpu}


def placement_attempts(start_deadline: float, local: bool) -> int:
    """Return how often Ray may find no room for the workers; Ray's own default is for ever."""
    return 1 if local else max(1, int(start_deadline // PLACEMENT_TIMEOUT))


def _cause(error: Any) -> Failure:
    """Return what ended the run: RestartPolicy's verdict, or what Ray itself could not do."""
    if isinstance(error, ControllerError):
        inner = error.controller_failure
        if isinstance(inner, RunFailed):
            return inner.failure
        if type(inner).__name__ == "WorkerGroupStartupTimeoutError":
            message = "the Ray cluster has no room for the workers: lower spec.workers, or add nodes or wait for them"
            return Failure(1, "NoRoom", f"{message}. {inner}", retryable=True)
        if killed_by_ray(inner):
            return killed_for_memory(None)
        if type(inner).__name__ == "WorkerGroupStartupFailedError":
            return told_apart(Failure(1, KILLED, f"a rank ended while it started: {inner}", retryable=True))
        return failure_of(inner)
    if isinstance(error, WorkerGroupError):
        return root_cause(failure_of(failure, rank) for rank, failure in error.worker_failures.items())
    return failure_of(error)
