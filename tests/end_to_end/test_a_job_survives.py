"""One job, and one thing after the other that happens to clusters: it trains as the same manifest does on a laptop."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from end_to_end import misfortunes
from end_to_end.installation import FOLDER, Installation
from end_to_end.manifests import EVERY, job
from end_to_end.tenant import Object, Tenant, step_of

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

    @contextmanager
    def after(self, what: str) -> Iterator[None]:
        """Let something happen in a with block, and wait until the job has trained on."""
        before, begun = step_of(self.tenant.status(self.name)), time.monotonic()
        yield
        reached = max(before, step_of(self.tenant.status(self.name)))  # a stopped run told its last steps
        self.tenant.until_step(self.name, reached + 1, 240)
        self.seconds[what] = round(time.monotonic() - begun, 1)
        self.tenant.until_step(self.name, reached + MARGIN)

    def save(self) -> None:
        """Write them down where the closing note and docs find them."""
        (FOLDER / "recoveries.json").write_text(json.dumps(self.seconds, indent=1), encoding="utf-8")


def attempts(status: Object) -> list[tuple[str, str]]:
    """Outcome and reason of the attempts that are over."""
    return [(one["outcome"], one["reason"]) for one in status["attempts"] if "outcome" in one]


def ended_with_commit(tenant: Tenant, name: str, number: int, reason: str) -> None:
    """Wait until an attempt has ended for a reason, and look whether all that it had done is committed."""
    status = tenant.until(name, f"in attempt {number + 1}", lambda now: len(now["attempts"]) > number)
    assert attempts(status)[number - 1][1] == reason
    assert int(status["checkpoint"]["step"]) >= int(status["attempts"][number - 1]["lastStep"])


def test_a_job_survives_what_happens_to_clusters_with_the_same_model(
    tenant: Tenant, installation: Installation, tmp_path: Path
) -> None:
    name = "disturbed"
    begun = time.monotonic()
    tenant.apply(job(tenant.name, name, steps=ENDLESS))
    tenant.until_step(name, 1)
    recoveries = Recoveries(tenant, name, {"apply": round(time.monotonic() - begun, 1)})

    with recoveries.after("rank killed"):
        misfortunes.signal_rank(tenant, name)
        tenant.until(name, "restarted", lambda now: now.get("restarts") == 1)
    assert attempts(tenant.status(name)) == []

    with recoveries.after("worker pod deleted"):
        misfortunes.delete_pod(tenant, name, "worker")
        ended_with_commit(tenant, name, 1, "Evicted")
    assert tenant.status(name)["attempts"][0]["stepsLost"] < EVERY  # those of the killed rank

    with recoveries.after("suspended and resumed"):
        misfortunes.suspend(tenant, name, True)
        status = tenant.until_phase(name, "Suspended")
        assert attempts(status)[-1] == ("Stopped", "Suspended")
        assert status["attempts"][-1]["stepsLost"] == 0
        misfortunes.until_no_pods(tenant, name)
        misfortunes.suspend(tenant, name, False)

    with recoveries.after("head pod deleted"):
        misfortunes.delete_pod(tenant, name, "head")
        ended_with_commit(tenant, name, 3, "Evicted")

    number = misfortunes.number_of_node(tenant.pods(name, "worker")[0])
    with recoveries.after("node drained"), misfortunes.drained(tenant, number):
        ended_with_commit(tenant, name, 4, "Evicted")

    number = misfortunes.number_of_node(tenant.pods(name, "worker")[0])
    with misfortunes.node_lost(tenant, number), recoveries.after("node lost"):
        pass  # it comes back when the job has trained on without it

    misfortunes.suspend(tenant, name, True)
    tenant.until_phase(name, "Suspended")
    recoveries.save()
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
    newest = [entry for entry in tenant.log(name) if entry["kind"] == "checkpoint"][-1]
    sums = {one["key"].rsplit("/", 1)[1]: one["crc64"] for one in newest["objects"]}
    return {file: crc for file, crc in sums.items() if file.startswith(("state-", "rng-"))}


def rank_logs(tenant: Tenant, name: str) -> set[str]:
    """Whose output lies in the store for the first attempt."""
    root = tenant.status(name)["attempts"][0]["logs"].removeprefix(f"s3://{tenant.name}/")
    return {key.removeprefix(f"{root}/").split("/")[0] for key in tenant.keys(f"{root}/")}
