"""A store that is busy, that damages what it holds, or that has an authority of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster_identity import Authority
from end_to_end import misfortunes
from end_to_end.installation import Installation
from end_to_end.manifests import EVERY, job
from end_to_end.tenant import Object, Tenant, condition, step_of
from faulty_http import refuse
from faulty_proxy import FaultyProxy
from s3_server import S3Server, free_port

STEPS = 400
REFUSALS = 32  # of four methods; one call alone tries ten times
ONCE = {"maxAttempts": 1, "maxRestarts": 0}

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1500)]


@pytest.fixture
def through_proxy(installation: Installation, proxy: FaultyProxy, tenant: Tenant) -> Iterator[str]:
    """A runtime whose store is behind the proxy."""
    with installation.runtime(f"{tenant.name}-proxy", storage={"endpoint": proxy.endpoint}) as name:
        yield name


def test_a_busy_store_and_a_damaged_checkpoint_change_no_model(
    tenant: Tenant, proxy: FaultyProxy, through_proxy: str
) -> None:
    tenant.apply(job(tenant.name, "undisturbed", steps=STEPS))
    tenant.until_phase("undisturbed", "Succeeded", 400)
    name = tenant.apply(job(tenant.name, "shaken", steps=STEPS, runtimeRef={"name": through_proxy}))
    before = tenant.until_step(name, EVERY)

    for method in ("GET", "PUT", "POST", "HEAD"):
        proxy.inject(method, refuse(503, "SlowDown"), times=REFUSALS // 4)
    tenant.until(name, "past it", lambda now: (now.get("checkpoint") or {}).get("step", 0) > step_of(before) + EVERY)
    assert len(tenant.status(name)["attempts"]) == 1

    misfortunes.suspend(tenant, name, True)
    tenant.until_phase(name, "Suspended")
    damaged = damage_newest(tenant, name)
    misfortunes.suspend(tenant, name, False)
    tenant.until_phase(name, "Succeeded", 400)

    assert tenant.adapter(name) == tenant.adapter("undisturbed")
    aside = [entry for entry in tenant.log(name) if entry["kind"] == "quarantine"]
    assert [entry["target"] for entry in aside] == [damaged["seq"]]
    assert damaged["objects"][0]["key"] in aside[0]["reason"]
    assert "CheckpointDamaged" in tenant.events(name)
    assert tenant.status(name)["checkpoint"]["damaged"]["step"] == damaged["step"]


def damage_newest(tenant: Tenant, name: str) -> Object:
    """Change one bit of the first object of the newest commit, and return the commit."""
    newest = tenant.checkpoints(name)[-1]
    key = f"{name}/checkpoints/{newest['objects'][0]['key']}"
    data = bytearray(tenant.read(key))
    data[len(data) // 2] ^= 1
    tenant.store.put_object(Bucket=tenant.name, Key=key, Body=bytes(data))
    return newest


@pytest.fixture
def secure(installation: Installation) -> Iterator[tuple[S3Server, dict[str, str]]]:
    """The same store behind TLS, and the PEM text of its authority and of one that knows nothing of it."""
    layout, authority = installation.cluster.layout, Authority("store")
    certificate, key = (layout.folder / f"store.{kind}" for kind in ("crt", "key"))
    issued = authority.issue("store", [layout.host], [])
    certificate.write_bytes(issued[0] + authority.pem)
    key.write_bytes(issued[1])
    plain = installation.s3
    server = S3Server(plain.data, free_port(), plain.access_key, plain.secret_key, layout.host, (certificate, key))
    server.start()
    yield server, {"right": authority.pem.decode(), "wrong": Authority("other").pem.decode()}
    server.kill()


def test_the_runtime_says_whose_certificates_of_the_store_are_believed(
    tenant: Tenant, installation: Installation, secure: tuple[S3Server, dict[str, str]]
) -> None:
    server, authorities = secure
    for which, pem in authorities.items():
        tenant.kubectl("create", "configmap", which, f"--from-literal=ca.crt={pem}")
        storage = {"endpoint": server.endpoint, "caConfigMap": {"name": which}}
        with installation.runtime(f"{tenant.name}-{which}", storage=storage) as runtime:
            manifest = job(tenant.name, which, steps=20, replicas=1, failurePolicy=ONCE)
            manifest["spec"]["runtimeRef"] = {"name": runtime}
            status = tenant.until_over(tenant.apply(manifest))
        misfortunes.until_no_pods(tenant, which)
        if which == "right":
            assert status["phase"] == "Succeeded"
            continue
        found = condition(status, "Failed")
        assert found["reason"] == "Storage"
        assert "certificate" in found["message"]
