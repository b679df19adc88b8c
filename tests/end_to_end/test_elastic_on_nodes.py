"""An elastic job on nodes: it starts with what fits, goes on without a lost node, and takes it in when it returns."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import pytest

from end_to_end import misfortunes
from end_to_end.installation import Installation
from end_to_end.manifests import EVERY, job
from end_to_end.tenant import Tenant

STEPS = 800
MARGIN = 20
COUNTED = ("step", "tokens", "keptTokens", "rows")
ONE_PER_NODE = {
    "topologySpreadConstraints": [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"finetune.dev/role": "worker"}},
        }
    ]
}

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1500)]


@pytest.fixture
def spread(installation: Installation, tenant: Tenant) -> Iterator[str]:
    """A runtime whose workers do not share a node."""
    with installation.runtime(f"{tenant.name}-spread", worker={"spec": ONE_PER_NODE}) as name:
        yield name


def test_a_job_grows_with_a_node_shrinks_with_its_loss_and_grows_again(tenant: Tenant, spread: str) -> None:
    tenant.apply(job(tenant.name, "undisturbed", steps=STEPS, runtimeRef={"name": spread}))
    tenant.until_phase("undisturbed", "Succeeded", 600)
    misfortunes.until_no_pods(tenant, "undisturbed")

    workers = {"replicas": 2, "minReplicas": 1, "gpusPerReplica": 0}
    with misfortunes.cordoned(tenant, 2):
        name = tenant.apply(job(tenant.name, "elastic", steps=STEPS, workers=workers, runtimeRef={"name": spread}))
        tenant.until_step(name, 1, 300)
        assert sizes(tenant, name) in ([], [1])
    grown(tenant, name, [1, 2])
    with misfortunes.node_lost(tenant, 2):
        grown(tenant, name, [1, 2, 1])
    grown(tenant, name, [1, 2, 1, 2])

    status = tenant.until_phase(name, "Succeeded", 600)
    (attempt,) = status["attempts"]
    assert status["restarts"] == 1 and attempt["stepsLost"] <= EVERY + MARGIN
    assert counts(tenant, name) == counts(tenant, "undisturbed")


def grown(tenant: Tenant, name: str, wanted: list[int]) -> None:
    """Wait until these world sizes have committed, one after the other."""
    tenant.until(name, f"at world sizes {wanted}", lambda status: sizes(tenant, name) == wanted, 240)


def sizes(tenant: Tenant, name: str) -> list[int]:
    """The world sizes that have committed so far."""
    committed = (entry["body"]["engine"]["world_size"] for entry in tenant.checkpoints(name))
    return [size for size, _ in itertools.groupby(committed)]


def counts(tenant: Tenant, name: str) -> list[dict[str, float]]:
    """What each step was made of."""
    records = [json.loads(line) for line in tenant.read(f"{name}/adapter/metrics.jsonl").splitlines()]
    return [{key: record[key] for key in COUNTED if key in record} for record in records]
