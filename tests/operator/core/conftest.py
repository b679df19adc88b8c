"""Ways to the API server: through a fault-injecting proxy, and as an administrator whom no fault meets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from control_plane import ControlPlane
from kube_proxy import KubeProxy, kube_proxy


@pytest.fixture
def proxy(control_plane: ControlPlane) -> Iterator[KubeProxy]:
    with kube_proxy(control_plane) as proxy:
        yield proxy


@pytest.fixture
def direct(control_plane: ControlPlane) -> Path:
    """The kubeconfig of an administrator whom no fault meets."""
    return control_plane.kubeconfig("admin")
