"""A progress endpoint that the tests share: each takes jobs of its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from control_plane import ControlPlane
from endpoint import Endpoint, JobPod


def new_namespace(plane: ControlPlane) -> str:
    """Make a namespace with its default ServiceAccount."""
    name = f"progress-{uuid.uuid4().hex[:10]}"
    plane.kubectl("create", "namespace", name)
    plane.wait_for_service_account(name)
    return name


@pytest.fixture(scope="session")
def home(control_plane: ControlPlane) -> str:
    """The namespace of the operator and of most jobs."""
    return new_namespace(control_plane)


@pytest.fixture(scope="session")
def elsewhere(control_plane: ControlPlane) -> str:
    """The namespace of another tenant."""
    return new_namespace(control_plane)


@pytest.fixture(scope="session")
def endpoint(control_plane: ControlPlane, home: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """The leader's endpoint."""
    with Endpoint(control_plane, home, tmp_path_factory.mktemp("endpoint")) as running:
        yield running


@pytest.fixture
def pod(endpoint: Endpoint) -> JobPod:
    """A pod of a job of the test's own."""
    return endpoint.pod(endpoint.job())


@pytest.fixture
def token(endpoint: Endpoint, pod: JobPod) -> str:
    """The pod's token, as it should be."""
    return endpoint.token(pod)
