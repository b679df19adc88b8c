"""What nodes keep for jobs, and which nodes jobs keep off: the model cache, and nodes on which attempts died."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial

import pytest

from cluster.layout import node_name
from end_to_end import misfortunes
from end_to_end.installation import Installation
from end_to_end.manifests import job
from end_to_end.tenant import Tenant, ended, trains
from faulty_proxy import FaultyProxy

WEIGHTS = "pretrained/model.safetensors"
MODELS = "/var/lib/models"
SIZE = "1Gi"
USER = 1000

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1500)]


@pytest.fixture
def caching(installation: Installation, tenant: Tenant, proxy: FaultyProxy) -> Iterator[str]:
    """A runtime with a folder of each node as model cache, by way of a claim, which `restricted` allows."""
    layout = installation.cluster.layout
    for number in layout.numbers:
        folder = layout.node(number) / "lib" / "models"
        folder.mkdir(exist_ok=True)
        os.chown(folder, USER, USER)
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": tenant.name},
        "spec": {
            "capacity": {"storage": SIZE},
            "accessModes": ["ReadWriteMany"],
            "hostPath": {"path": MODELS},
            "claimRef": {"namespace": tenant.name, "name": "models"},
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "models"},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "",
            "volumeName": tenant.name,
            "resources": {"requests": {"storage": SIZE}},
        },
    }
    installation.kubectl("apply", "-f", "-", input=json.dumps(volume))
    tenant.kubectl("apply", "-f", "-", input=json.dumps(claim))
    cache = {"volume": {"persistentVolumeClaim": {"claimName": "models"}}, "size": SIZE}
    with installation.runtime(f"{tenant.name}-cache", modelCache=cache, storage={"endpoint": proxy.endpoint}) as name:
        yield name
    installation.kubectl("delete", "persistentvolume", tenant.name, "--wait=false")


def test_a_node_fetches_a_model_once_for_all_jobs(tenant: Tenant, proxy: FaultyProxy, caching: str) -> None:
    with misfortunes.cordoned(tenant, 2):
        reads = []
        for number in (1, 2):
            manifest = job(tenant.name, f"job-{number}", steps=20, replicas=1, runtimeRef={"name": caching})
            name = tenant.apply(manifest)
            tenant.until_phase(name, "Succeeded", 300)
            misfortunes.until_no_pods(tenant, name)
            reads.append(proxy.count("GET", WEIGHTS))
    assert 0 < reads[0] == reads[1]


def test_a_node_on_which_two_attempts_died_is_left_alone(tenant: Tenant) -> None:
    bad, good = 1, 2
    with misfortunes.cordoned(tenant, good):
        name = tenant.apply(job(tenant.name, "unlucky", steps=1500, replicas=1))
        for number in (1, 2):
            tenant.until(name, f"training in attempt {number}", partial(trains, number), 300)
            assert nodes_of(tenant, name) == {bad}
            with misfortunes.node_lost(tenant, bad):
                tenant.until(name, "over", partial(ended, number), 240)
    status = tenant.until(name, "training in attempt 3", partial(trains, 3), 300)
    assert [one["node"] for one in status["attempts"][:2]] == [node_name(bad)] * 2
    assert status["attempts"][2]["avoidedNodes"] == [node_name(bad)]
    assert nodes_of(tenant, name) == {good}
    tenant.until_phase(name, "Succeeded", 400)


def nodes_of(tenant: Tenant, name: str) -> set[int]:
    """The nodes that a job's pods are on."""
    return {misfortunes.number_of_node(pod) for pod in tenant.pods(name)}
