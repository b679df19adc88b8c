"""One job, and one thing after the other that happens to clusters: it trains as the same manifest does on a laptop."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from end_to_end import misfortunes
from end_to_end.installation import FOLDER, Installation
from end_to_end.manifests import EVERY, job
from end_to_end.tenant import Object, Tenant, step_of

Fault = Callable[[Tenant, str], AbstractContextManager[None]]
"""Happens to the job of a tenant; what it took away for good comes back at the end of the with block."""

ENDLESS = 1_000_000
"""Steps: the job is stopped when all has happened to it, however fast it trains meanwhile."""

MARGIN = 5
"""Steps that a job makes undisturbed between two misfortunes."""

pytestmark = pytest.mark.timeout(1800)


@dataclass
class Recoveries:
    """Seconds from each misfortune, or from apply, until the next step was in the status."""

    tenant: Tenant
    name: str
    seconds: dict[str, float] = field(default_factory=dict)

    def meet(self, fault: Fault) -> None:
        """Let something happen, and wait until the job has trained on."""
        before, begun = step_of(self.tenant.status(self.name)), time.monotonic()
        with fault(self.tenant, self.name):
            reached = max(before, step_of(self.tenant.status(self.name)))  # a stopped run told its last steps
            self.tenant.until_step(self.name, reached + 1, 300)
            self.seconds[fault.__name__] = round(time.monotonic() - begun, 1)
        self.tenant.until_step(self.name, reached + MARGIN)

    def save(self) -> None:
        """Write them down where the closing note and docs find them."""
        (FOLDER / "recoveries.json").write_text(json.dumps(self.seconds, indent=1), encoding="utf-8")


def attempts(status: Object) -> list[tuple[str, str]]:
    """Outcome and reason of the attempts that are over."""
    return [(one["outcome"], one["reason"]) for one in status["attempts"] if "outcome" in one]


def evicted_with_commit(tenant: Tenant, name: str, number: int) -> None:
    """Wait until an attempt has ended by an eviction, and look whether all that it had done is committed."""
    status = tenant.until(name, f"in attempt {number + 1}", lambda now: len(now["attempts"]) > number)
    assert attempts(status)[number - 1][1] == "Evicted"
    assert int(status["checkpoint"]["step"]) >= int(status["attempts"][number - 1]["lastStep"])


def evict_by_deletion(tenant: Tenant, name: str, role: str) -> None:
    """Delete the pod of a role, which ends the attempt."""
    number = len(tenant.status(name)["attempts"])
    misfortunes.delete_pod(tenant, name, role)
    evicted_with_commit(tenant, name, number)


@contextmanager
def rank_killed(tenant: Tenant, name: str) -> Iterator[None]:
    number, restarts = starts(tenant.status(name))
    misfortunes.signal_rank(tenant, name)
    tenant.until(name, "restarted in place", lambda now: starts(now) == (number, restarts + 1))
    yield


@contextmanager
def worker_pod_deleted(tenant: Tenant, name: str) -> Iterator[None]:
    evict_by_deletion(tenant, name, "worker")
    yield


@contextmanager
def suspended_and_resumed(tenant: Tenant, name: str) -> Iterator[None]:
    misfortunes.suspend(tenant, name, True)
    status = tenant.until_phase(name, "Suspended")
    assert attempts(status)[-1] == ("Stopped", "Suspended")
    assert status["attempts"][-1]["stepsLost"] == 0
    misfortunes.until_no_pods(tenant, name)
    misfortunes.suspend(tenant, name, False)
    yield


@contextmanager
def head_pod_deleted(tenant: Tenant, name: str) -> Iterator[None]:
    evict_by_deletion(tenant, name, "head")
    yield


@contextmanager
def node_drained(tenant: Tenant, name: str) -> Iterator[None]:
    number, node = len(tenant.status(name)["attempts"]), node_of_a_worker(tenant, name)
    with misfortunes.drained(tenant, node):
        evicted_with_commit(tenant, name, number)
    yield


@contextmanager
def node_lost(tenant: Tenant, name: str) -> Iterator[None]:
    before, node = starts(tenant.status(name)), node_of_a_worker(tenant, name)
    with misfortunes.node_lost(tenant, node):
        tenant.until(name, "started again", lambda now: starts(now) > before, 240)
        yield  # the node comes back when the job has trained on without it


def starts(status: Object) -> tuple[int, int]:
    """How often ranks were started: in attempts, of which one that loses its head is followed by another, and in it."""
    return len(status["attempts"]), status.get("restarts", 0)


def node_of_a_worker(tenant: Tenant, name: str) -> int:
    return misfortunes.number_of_node(tenant.pods(name, "worker")[0])


FAULTS = (rank_killed, worker_pod_deleted, suspended_and_resumed, head_pod_deleted, node_drained, node_lost)


def test_a_job_survives_what_happens_to_clusters_with_the_same_model(
    tenant: Tenant, installation: Installation, tmp_path: Path
) -> None:
    name = "disturbed"
    begun = time.monotonic()
    tenant.apply(job(tenant.name, name, steps=ENDLESS))
    tenant.until_step(name, 1)
    recoveries = Recoveries(tenant, name, {"apply": round(time.monotonic() - begun, 1)})
    for fault in FAULTS:
        recoveries.meet(fault)
    misfortunes.suspend(tenant, name, True)
    status = tenant.until_phase(name, "Suspended")
    recoveries.save()
    assert status["attempts"][0]["stepsLost"] < EVERY  # those of the killed rank
    assert rank_logs(tenant, name) >= {"launcher", "rank-0", "rank-1"}
    run_here(installation, job(tenant.name, "undisturbed", steps=tenant.commits(name)[-1]), tmp_path)
    assert trained(tenant, name) == trained(tenant, "undisturbed")


def run_here(installation: Installation, manifest: Object, folder: Path) -> None:
    """Run a manifest to its end on this machine, without a cluster."""
    path = folder / "job.yaml"
    path.write_text(json.dumps(manifest), encoding="utf-8")
    finetune = Path(sysconfig.get_path("scripts")) / "finetune"
    places = {f"FINETUNE_{name}": str(folder) for name in ("STATE_DIR", "WORKDIR")}
    command = [str(finetune), "run", str(path), "--launcher", "torchrun"]
    subprocess.run(command, env=os.environ | installation.s3.environment() | places, check=True)


def trained(tenant: Tenant, name: str) -> dict[str, str]:
    """Checksums of what the newest commit holds of weights, optimizer and random numbers."""
    newest = tenant.checkpoints(name)[-1]
    sums = {one["key"].rsplit("/", 1)[1]: one["crc64"] for one in newest["objects"]}
    return {file: crc for file, crc in sums.items() if file.startswith(("state-", "rng-"))}


def rank_logs(tenant: Tenant, name: str) -> set[str]:
    """Whose output lies in the store for the first attempt."""
    root = tenant.status(name)["attempts"][0]["logs"].removeprefix(f"s3://{tenant.name}/")
    return {key.removeprefix(f"{root}/").split("/")[0] for key in tenant.keys(f"{root}/")}
