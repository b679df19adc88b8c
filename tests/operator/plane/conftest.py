"""A proxy in front of the control plane, and clients through it and past it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from control_plane import ControlPlane
from kube_http import KubeHttp
from kube_proxy import KubeProxy, kube_proxy


@pytest.fixture
def proxy(control_plane: ControlPlane) -> Iterator[KubeProxy]:
    with kube_proxy(control_plane) as proxy:
        yield proxy


@pytest.fixture
def through(proxy: KubeProxy) -> KubeHttp:
    return KubeHttp(proxy.kubeconfig("admin"))


@pytest.fixture
def direct(control_plane: ControlPlane) -> KubeHttp:
    return KubeHttp(control_plane.kubeconfig("admin"))


@pytest.fixture
def maps(namespace: str) -> str:
    """Path of the ConfigMaps of the test's namespace."""
    return f"/api/v1/namespaces/{namespace}/configmaps"
