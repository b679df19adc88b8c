"""Bad input that only the cluster can tell: each becomes a reason and a remedy in the status, and frees its pods."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version

import pytest

from end_to_end.installation import Installation
from end_to_end.manifests import job
from end_to_end.misfortunes import until_no_pods
from end_to_end.tenant import Object, Tenant, condition
from operator_image import NAME as OPERATOR_IMAGE

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]
ALONE = {"spec": {"runtimeClassName": None}}  # without this machine's Python
SMALLEST = {"medium": "Memory", "sizeLimit": "64Ki"}


@dataclass(frozen=True)
class Wrong:
    """What is wrong with a job or its runtime, and what its status shall say."""

    reason: str
    words: tuple[str, ...]
    spec: Object = field(default_factory=dict)
    runtime: Object = field(default_factory=dict)
    waits: bool = False
    """Whether it is the start deadline that ends it: somebody may still put it right."""


CASES = {
    "no-image": Wrong(
        "ImagePull", ("localhost/no-such-image:1",), runtime={"image": "localhost/no-such-image:1"}, waits=True
    ),
    "no-room": Wrong(
        "Unschedulable",
        ("Insufficient memory",),
        {"workers": {"replicas": 1, "gpusPerReplica": 0, "resources": {"memory": "900Gi"}}},
        waits=True,
    ),
    "no-secret": Wrong(
        "StartDeadline",
        ('secret "nobody" not found',),
        {"storage": {"secretRef": {"name": "nobody"}}},
        waits=True,
    ),
    "no-endpoint": Wrong("Storage", ("http://127.0.0.1:9",), runtime={"storage": {"endpoint": "http://127.0.0.1:9"}}),
    "no-model": Wrong("BadData", ("spec.model.uri", "config.json"), {"model": {"uri": "s3://BUCKET/nothing"}}),
    "no-bucket": Wrong(
        "Storage", ("spec.checkpoint.uri",), {"checkpoint": {"uri": "s3://not-ours/x", "everySteps": 20}}
    ),
    "no-disk": Wrong(
        "Storage",
        ("no space left",),
        runtime={"worker": {"spec": {"volumes": [{"name": "scratch", "emptyDir": SMALLEST}]}}},
    ),
    "no-memory": Wrong(
        "HostOutOfMemory",
        ("memory",),
        {"workers": {"replicas": 1, "gpusPerReplica": 0, "resources": {"memory": "500Mi"}}},
    ),
    "no-ray": Wrong(  # an image of somebody else's: the operator's has no Ray
        "RayInternal",
        ("exit code 127", "ray: command not found"),
        runtime={"image": OPERATOR_IMAGE, "head": ALONE, "worker": ALONE},
    ),
    "other-ray": Wrong("UserError", ("spec.rayVersion", version("ray")), runtime={"rayVersion": "2.99.0"}),
    "no-ray-cluster": Wrong(
        "Validation",
        ("RAY_REDIS_ADDRESS",),
        runtime={"head": {"container": {"env": [{"name": "RAY_REDIS_ADDRESS", "value": "redis:6379"}]}}},
    ),
}


@pytest.fixture
def runtime(case: str, installation: Installation, tenant: Tenant) -> Iterator[str]:
    """The FineTuneRuntime of a case: the default one, or one with what is wrong."""
    wrong = CASES[case]
    if not wrong.runtime:
        yield "default"
        return
    with installation.runtime(f"{tenant.name}-{case}", **wrong.runtime) as name:
        yield name


@pytest.mark.parametrize("case", CASES)
def test_it_says_why_and_frees_its_pods(case: str, tenant: Tenant, runtime: str) -> None:
    wrong = CASES[case]
    spec = json.loads(json.dumps(wrong.spec).replace("BUCKET", tenant.name))
    limits = {"startDeadlineSeconds": 60 if wrong.waits else 300, "failurePolicy": {"maxAttempts": 1, "maxRestarts": 0}}
    tenant.apply(job(tenant.name, case, replicas=1, **{**limits, **spec, "runtimeRef": {"name": runtime}}))
    found = condition(tenant.until_over(case, 400), "Failed")
    assert found["reason"] == wrong.reason
    assert all(word in found["message"] for word in wrong.words), found["message"]
    until_no_pods(tenant, case)
