"""A fault-injecting proxy for each test that asks for one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from control_plane import ControlPlane
from kube_proxy import KubeProxy, kube_proxy


@pytest.fixture
def proxy(control_plane: ControlPlane) -> Iterator[KubeProxy]:
    with kube_proxy(control_plane) as proxy:
        yield proxy
