"""Stores as in life: a role by web identity, somebody else's bucket, a store that cannot commit."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from control_plane_commands import ISSUER
from end_to_end.installation import Installation
from end_to_end.manifests import job
from end_to_end.misfortunes import until_no_pods
from end_to_end.tenant import Tenant, condition

AUDIENCE = "sts.amazonaws.com"
ONCE = {"maxAttempts": 1, "maxRestarts": 0}

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]


@pytest.fixture
def by_identity(installation: Installation, tenant: Tenant) -> Iterator[str]:
    """A runtime whose pods take the role of their namespace, which the store gives to the tenant's user."""
    keys = json.loads(installation.kubectl("get", "--raw", "/openid/v1/jwks"))
    installation.s3.trust(ISSUER, AUDIENCE, keys)
    role = "arn:aws:iam::123456789012:role/{namespace}"
    subjects = [f"system:serviceaccount:{tenant.name}:*"]
    installation.s3.add_role(role.replace("{namespace}", tenant.name), tenant.name, subjects)
    identity = {"roleArn": role, "audience": AUDIENCE, "stsEndpoint": installation.s3.endpoint}
    with installation.runtime(f"{tenant.name}-identity", storage={"webIdentity": identity}) as name:
        yield name


def test_a_job_trains_with_the_identity_of_its_service_account(tenant: Tenant, by_identity: str) -> None:
    manifest = job(tenant.name, "identity", replicas=1, runtimeRef={"name": by_identity})
    del manifest["spec"]["storage"]
    tenant.apply(manifest)
    tenant.until_phase("identity", "Succeeded", 300)
    assert tenant.adapter("identity")


def test_a_job_cannot_read_another_tenants_bucket(tenant: Tenant, installation: Installation) -> None:
    other = installation.tenant(f"{tenant.name}-b")
    data = {"train": [{"uri": f"s3://{other.name}/data/chat/train-*.jsonl"}], "maxLength": 256}
    tenant.apply(job(tenant.name, "curious", replicas=1, data=data, failurePolicy=ONCE))
    found = condition(tenant.until_over("curious"), "Failed")
    assert found["reason"] == "Storage"
    assert other.name in found["message"]
    until_no_pods(tenant, "curious")
    other.leave()


def test_a_store_that_cannot_commit_is_refused_before_workers_train(tenant: Tenant, installation: Installation) -> None:
    installation.s3.ignore_conditions(tenant.name)
    tenant.apply(job(tenant.name, "loose", replicas=1, failurePolicy=ONCE))
    found = condition(tenant.until_over("loose"), "Failed")
    assert found["reason"] == "Storage"
    assert "spec.checkpoint.uri" in found["message"]
    until_no_pods(tenant, "loose")
