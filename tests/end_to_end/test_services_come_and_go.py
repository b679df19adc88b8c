"""A job trains on while the operator, KubeRay, the API server, DNS or the store is away, and its model is the same."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from end_to_end.installation import NAMESPACE, Installation
from end_to_end.manifests import EVERY, job
from end_to_end.tenant import Object, Tenant, step_of

STEPS = 1500
MINUTE = 60.0
DEPLOYMENT = "deployment/finetune-operator"

pytestmark = [pytest.mark.soak, pytest.mark.timeout(2400)]


@pytest.fixture
def busy(tenant: Tenant) -> tuple[Tenant, str]:
    """A job in the middle of its training."""
    name = tenant.apply(job(tenant.name, "busy", steps=STEPS))
    tenant.until_step(name, EVERY)
    return tenant, name


@contextmanager
def no_operator(installation: Installation) -> Iterator[None]:
    """Both replicas are gone."""
    installation.kubectl("scale", DEPLOYMENT, "--replicas=0", namespace=NAMESPACE)
    try:
        yield
    finally:
        installation.kubectl("scale", DEPLOYMENT, "--replicas=2", namespace=NAMESPACE)
        installation.kubectl("rollout", "status", DEPLOYMENT, "--timeout=120s", namespace=NAMESPACE)


@contextmanager
def no_api_server(installation: Installation) -> Iterator[None]:
    """Nobody reads or writes an object."""
    plane = installation.cluster.plane
    plane.api_server.kill()
    try:
        yield
    finally:
        plane.api_server.start()
        plane.wait_until_ready()


@contextmanager
def no_names(installation: Installation) -> Iterator[None]:
    """No name resolves."""
    installation.cluster.dns.kill()
    try:
        yield
    finally:
        installation.cluster.dns.start()


@contextmanager
def no_store(installation: Installation) -> Iterator[None]:
    """The store refuses connections."""
    installation.s3.kill()
    try:
        yield
    finally:
        installation.s3.start()


def lasts(seconds: float) -> None:
    """Let an outage last."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(1.0, left))


def goes_on(tenant: Tenant, name: str, after: Object) -> Object:
    """The same attempt trains on, beyond where it was."""
    status = tenant.until_step(name, step_of(after) + EVERY)
    assert len(status["attempts"]) == 1
    return status


def test_a_minute_without_operator(busy: tuple[Tenant, str], installation: Installation) -> None:
    tenant, name = busy
    with no_operator(installation):
        before = tenant.status(name)
        lasts(MINUTE)
        assert step_of(tenant.status(name)) == step_of(before)
    status = goes_on(tenant, name, before)
    assert status["restarts"] == 0


def test_kuberay_is_killed(busy: tuple[Tenant, str], installation: Installation) -> None:
    tenant, name = busy
    words = ("delete", "pods", "--all", "--grace-period=0", "--force")
    installation.kubectl(*words, namespace="kuberay-system")
    status = goes_on(tenant, name, tenant.status(name))
    assert status["restarts"] == 0


def test_a_minute_without_api_server(busy: tuple[Tenant, str], installation: Installation) -> None:
    tenant, name = busy
    before = tenant.status(name)
    with no_api_server(installation):
        lasts(MINUTE)
    status = goes_on(tenant, name, before)
    assert status["restarts"] == 0


def test_half_a_minute_without_names(busy: tuple[Tenant, str], installation: Installation) -> None:
    tenant, name = busy
    with no_names(installation):
        lasts(MINUTE / 2)
    goes_on(tenant, name, tenant.status(name))


def test_a_minute_without_store(busy: tuple[Tenant, str], installation: Installation) -> None:
    tenant, name = busy
    with no_store(installation):
        lasts(MINUTE)
    tenant.until_step(name, step_of(tenant.status(name)) + EVERY)
