"""A cluster without us, for tests that install, upgrade and remove the chart."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chart_release import Release
from cluster_fixtures import Command
from control_plane import ControlPlane


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server that knows KubeRay's kinds and not ours, with an admission plugin that OpenShift has on."""
    flags = ["--enable-admission-plugins=OwnerReferencesPermissionEnforcement"]
    plane = ControlPlane(tmp_path_factory.mktemp("platform"), flags)
    try:
        plane.start()
        plane.install_kuberay_crds()
        yield plane
    finally:
        plane.stop()


@pytest.fixture
def release(platform: ControlPlane, helm: Command) -> Iterator[Release]:
    """A release that is not installed yet; what is left of it in the end goes, with all jobs."""
    release = Release(platform, helm)
    yield release
    release.remove()
