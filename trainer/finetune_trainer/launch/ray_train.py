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

from finetune_trainer.launch.environment import loopback, prepare
from finetune_trainer.launch.launcher import Lines, Plan
from finetune_trainer.launch.outcome import KILLED, Failure, RunFailed, failure_of, root_cause
from finetune_trainer.launch.ray_cluster import cluster
from finetune_trainer.launch.ray_worker import ENDED, RestartPolicy, told_apart, train_worker
from finetune_trainer.spec import ranks, run_id, to_manifest
from finetune_trainer.spec.quantity import cpu_cores

PLACEMENT_TIMEOUT = 60
"""Seconds that Ray Train waits for room for all workers before it asks again; its own default."""


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
            self._phase("starting workers", f"{ranks(self._plan.job)} ranks")
            self._fit()

    def abort(self) -> None:
        """End Ray, or this process's part in the cluster: the controller and with it the workers."""
        ray.shutdown()

    def _phase(self, name: str, detail: str = "") -> None:
        self._lines.emit({"kind": "phase", "name": name, "detail": detail})

    def _fit(self) -> None:
        try:
            result = self._trainer().fit()
        except TrainingFailedError as error:
            raise RunFailed(_cause(error)) from None
        except RayError as error:
            raise RunFailed(Failure(1, "RayFailed", f"Ray ended: {error}", retryable=True)) from error
        returned: dict[str, Any] = result.return_value or {}  # type: ignore[attr-defined]  # mypy sees Ray Train V1
        if ENDED in returned:
            raise RunFailed(Failure.from_json(returned[ENDED]))

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
        policy: Any = RestartPolicy(job.spec.failure_policy.max_restarts, self._lines.channel)
        gpu = job.spec.workers.gpus_per_replica > 0
        failures = FailureConfig(
            max_failures=-1,  # RestartPolicy counts, by the rule that torchrun runs follow too
            controller_failure_limit=placement_attempts(  # type: ignore[call-arg]  # mypy sees Ray Train V1
                job.spec.start_deadline_seconds, local
            ),
        )
        return TorchTrainer(
            worker,
            torch_config=TorchConfig("nccl" if gpu else "gloo", timeout_s=job.spec.no_progress_deadline_seconds),
            scaling_config=ScalingConfig(
                num_workers=ranks(job), use_gpu=gpu, resources_per_worker=resources_per_worker(self._plan, local)
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
    return {"CPU": math.ceil(cpu_cores(cpu)) / max(1, workers.gpus_per_replica) if cpu else 1.0, **gpu}


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
        if type(inner).__name__ == "WorkerGroupStartupFailedError":
            return told_apart(Failure(1, KILLED, f"a rank ended while it started: {inner}", retryable=True))
        return failure_of(inner)
    if isinstance(error, WorkerGroupError):
        return root_cause(failure_of(failure, rank) for rank, failure in error.worker_failures.items())
    return failure_of(error)
