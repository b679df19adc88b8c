"""Ways to the API server past the fault-injecting proxy."""

from __future__ import annotations

import pytest

from control_plane import ControlPlane
from kube_http import KubeHttp
from kube_proxy import KubeProxy


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
