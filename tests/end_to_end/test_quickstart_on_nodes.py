"""examples/quickstart.yaml applied to a cluster with nodes: from the manifest to an adapter in S3."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster import platform
from end_to_end.installation import Installation
from end_to_end.misfortunes import until_no_pods
from end_to_end.tenant import Tenant, condition

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.yaml"
NAME = "quickstart"
TOLD = ["Starting", "Ready", "Committed", "Succeeded"]

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def owner(installation: Installation, tenant: Tenant) -> Tenant:
    """A tenant whose Secret opens the bucket that the quickstart names."""
    keys = f"--from-env-file={installation.cluster.layout.folder}/s3.env"
    tenant.kubectl("delete", "secret", "s3")
    tenant.kubectl("create", "secret", "generic", "s3", keys)
    return Tenant(tenant.cluster, tenant.name, installation.s3_client())


def test_the_quickstart_ends_with_an_adapter_in_s3(owner: Tenant, installation: Installation) -> None:
    owner.kubectl("apply", "-f", str(QUICKSTART))
    status = owner.until_phase(NAME, "Succeeded", 300)
    adapter = {item["Key"].rsplit("/", 1)[1] for item in listed(owner, f"{NAME}/adapter/")}
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md", "audit.json"} <= adapter
    assert status["progress"]["step"] == status["progress"]["totalSteps"] > 0
    assert status["progress"]["percent"] == 100
    assert [(one["number"], one["outcome"]) for one in status["attempts"]] == [(1, "Succeeded")]
    assert condition(status, "Complete")["status"] == "True"
    assert status["output"]["uri"] == f"s3://{platform.BUCKET}/{NAME}/adapter"
    owner.kubectl("wait", "--for=condition=Complete", f"finetunejob/{NAME}", "--timeout=1s")
    until_no_pods(owner, NAME)
    told = list(dict.fromkeys(reason for reason in owner.events(NAME) if reason in TOLD))
    assert told == TOLD
    assert warnings(owner) == []


def listed(tenant: Tenant, prefix: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = tenant.store.list_objects_v2(Bucket=platform.BUCKET, Prefix=prefix).get(
        "Contents", []
    )
    return found


def warnings(tenant: Tenant) -> list[str]:
    """Warnings about the job itself."""
    found = json.loads(tenant.kubectl("get", "events", "--field-selector", "type=Warning", "-o", "json"))["items"]
    return [f"{one['reason']}: {one['message']}" for one in found if one["involvedObject"]["kind"] == "FineTuneJob"]
