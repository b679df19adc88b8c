"""Many evictions of one job, and many jobs of several tenants at once."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from functools import partial

import pytest
from botocore.exceptions import ClientError

from control_plane import KubectlFailed
from end_to_end import misfortunes
from end_to_end.installation import FOLDER, NAMESPACE, Installation
from end_to_end.manifests import job
from end_to_end.tenant import Tenant, attempt_of, ended, trains

EVICTIONS = int(os.environ.get("SOAK_EVICTIONS", "50"))
JOBS = int(os.environ.get("SOAK_JOBS", "20"))
AT_ONCE = 3
MEMORY_MIB = 256

pytestmark = [pytest.mark.soak, pytest.mark.timeout(7200)]


@pytest.fixture
def tenants(installation: Installation) -> Iterator[list[Tenant]]:
    """Three of them."""
    found = [installation.tenant(f"many-{letter}-{os.getpid()}") for letter in "abc"]
    yield found
    for one in found:
        one.leave()


@pytest.fixture
def limited(installation: Installation) -> Iterator[str]:
    """A runtime that runs a few jobs at a time."""
    with installation.runtime("few-at-a-time", limits={"maxRunningJobs": AT_ONCE}) as name:
        yield name


def test_jobs_of_three_tenants_all_end_right(tenants: list[Tenant], limited: str, installation: Installation) -> None:
    owners = [tenants[number % len(tenants)] for number in range(JOBS)]
    begun = time.monotonic()
    names = [
        owner.apply(job(owner.name, f"job-{number}", steps=20, replicas=1, runtimeRef={"name": limited}))
        for number, owner in enumerate(owners)
    ]
    for owner, name in zip(owners, names, strict=True):
        owner.until_phase(name, "Succeeded", 3600)
        assert owner.adapter(name)
    measured = {
        "jobs": JOBS,
        "seconds": round(time.monotonic() - begun),
        "operatorMiB": memory_of_operator(installation),
    }
    (FOLDER / "many.json").write_text(json.dumps(measured), encoding="utf-8")
    for one in tenants:
        for other in tenants:
            if one is not other:
                with pytest.raises(ClientError, match="AccessDenied"):
                    one.store.list_objects_v2(Bucket=other.name)
    assert measured["operatorMiB"] < MEMORY_MIB


def test_an_eviction_costs_at_most_a_step(tenant: Tenant) -> None:
    retries = {"rules": [{"reasons": ["Evicted"], "maxRetries": EVICTIONS}]}
    name = tenant.apply(job(tenant.name, "evicted", steps=100_000, every=10_000, replicas=1, failurePolicy=retries))
    lost = []
    for number in range(1, EVICTIONS + 1):
        tenant.until(name, f"training in attempt {number}", partial(trains, number), 300)
        misfortunes.evict(tenant, tenant.pods(name, "worker")[0])
        status = tenant.until(name, "over", partial(ended, number), 200)
        attempt = attempt_of(number, status)
        assert (attempt["outcome"], attempt["reason"]) == ("Failed", "Evicted")
        lost.append(attempt["stepsLost"])
        (FOLDER / "evictions.json").write_text(json.dumps(lost), encoding="utf-8")
    assert max(lost) <= 1


def memory_of_operator(installation: Installation) -> float:
    """MiB of the replica that uses most, from its own metrics."""
    pods = installation.kubectl(
        "get", "pods", "-l", "app.kubernetes.io/name=finetune-operator", "-o", "name", namespace=NAMESPACE
    )
    found = []
    for pod in pods.split():
        try:
            path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod.split('/')[1]}:8080/proxy/metrics"
            text = installation.kubectl("get", "--raw", path)
        except KubectlFailed:
            continue
        found += [float(value) for value in re.findall(r"^process_resident_memory_bytes (\S+)$", text, re.MULTILINE)]
    return max(found) / 2**20
