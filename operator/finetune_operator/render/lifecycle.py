"""How pods are stopped and watched: the time a stop may take, the preStop hook, the probes.

Seconds after a pod's deletion was asked for, with a grace period of G (`grace`):
```
0        preStop asks for a stop: SIGTERM to the driver, through Ray's job API
G        the driver gives up waiting for the commit and ends the ranks itself
G + 10   Ray kills a driver that did not
G + 15   preStop returns whatever still runs; SIGTERM to `ray start`
G + 30   the kubelet kills the pod
```
A run that commits sooner ends sooner: preStop returns when nothing trains in its pod any more.
"""

from __future__ import annotations

from typing import Any, Literal

from finetune_operator.api.grace import grace_seconds
from finetune_operator.api.job import Job
from finetune_operator.api.runtime import RuntimeSpec
from finetune_operator.render.places import AGENT_PORT, HEAD_PORTS, JOB_DIR

Role = Literal["head", "worker"]

JOB_STOP, PRE_STOP, POD_STOP = 10, 15, 30
"""Seconds after the grace period: see above."""

PRE_STOP_SCRIPT = "prestop.py"

_READY = {"initialDelaySeconds": 10, "periodSeconds": 5, "failureThreshold": 10}
_ALIVE = {"initialDelaySeconds": 30, "periodSeconds": 5, "failureThreshold": 120}
_TIMEOUT = {"head": 5, "worker": 2}


def grace(job: Job, runtime: RuntimeSpec) -> int:
    """Seconds that a stopped run of the job's next attempt has to commit."""
    asked = job.manifest.spec.termination_grace_period_seconds
    return grace_seconds(asked or runtime.termination_grace_period_seconds, job.status.checkpoint)


def stop_variables(job: Job, runtime: RuntimeSpec, role: Role) -> dict[str, str]:
    """What Ray waits for when it is stopped.

    Its own draining is off: the hook has waited for the ranks, a head never gets idle, and a worker whose head is gone
    already would ask it for as long as the pod lives (80 s were measured).
    """
    no_drain = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    if role == "worker":
        return no_drain
    return no_drain | {
        "RAY_JOB_STOP_WAIT_TIME_S": str(grace(job, runtime) + JOB_STOP),
        "FINETUNE_GRACE_SECONDS": str(grace(job, runtime)),
    }


def pre_stop(job: Job, runtime: RuntimeSpec, role: Role, submission: str) -> dict[str, Any]:
    """The container's lifecycle: the hook that makes eviction, drain and deletion by others end in a commit."""
    arguments = [role, submission, str(grace(job, runtime) + PRE_STOP), str(HEAD_PORTS["dashboard"])]
    return {"preStop": {"exec": {"command": ["python3", f"{JOB_DIR}/{PRE_STOP_SCRIPT}", *arguments]}}}


def probes(role: Role) -> dict[str, Any]:
    """KubeRay's own probes, written out so that they do not depend on its settings."""
    action = {"httpGet": {"path": "/api/healthz", "port": AGENT_PORT}, "timeoutSeconds": _TIMEOUT[role]}
    return {"readinessProbe": {**action, **_READY}, "livenessProbe": {**action, **_ALIVE}}
