"""An elastic job on nodes: it starts with what fits, goes on without a lost node, and takes it in when it comes back."""

from __future__ import annotations

import json

import pytest

from cluster.layout import node_name
from end_to_end import misfortunes
from end_to_end.manifests import job
from end_to_end.tenant import Tenant, step_of

STEPS = 3000
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


def test_a_job_shrinks_with_a_lost_node_and_grows_with_its_return(tenant: Tenant) -> None:
    workers = {"replicas": 2, "minReplicas": 1, "gpusPerReplica": 0}
    head = 1
    tenant.kubectl("cordon", node_name(2))
    try:
        name = tenant.apply(job(tenant.name, "elastic", steps=STEPS, workers=workers))
        tenant.until(name, "at step 1 with one worker", lambda now: step_of(now) > 0)
        assert {misfortunes.number_of_node(pod) for pod in tenant.pods(name, "head")} == {head}
    finally:
        tenant.kubectl("uncordon", node_name(2))
    tenant.until_step(name, step_of(tenant.status(name)) + 50)
    tenant.until_phase(name, "Succeeded", 600)
    status = tenant.status(name)
    assert [one["outcome"] for one in status["attempts"]] == ["Succeeded"]
