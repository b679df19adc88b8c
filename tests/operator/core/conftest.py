"""Ways to the API server past the fault-injecting proxy."""

from __future__ import annotations

from pathlib import Path

import pytest

from control_plane import ControlPlane


@pytest.fixture
def direct(control_plane: ControlPlane) -> Path:
    """The kubeconfig of an administrator whom no fault meets."""
    return control_plane.kubeconfig("admin")
