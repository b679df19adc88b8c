"""A cluster without us, for tests that install, upgrade and remove the chart, and what is Prometheus' of one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from chart_release import Release
from cluster_fixtures import Command
from cluster_programs import program, prometheus_crds
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


@pytest.fixture(scope="module")
def prometheus_kinds(control_plane: ControlPlane) -> Iterator[None]:
    """The kinds ServiceMonitor and PrometheusRule in the session's control plane."""
    control_plane.install_crds(*prometheus_crds())
    yield
    control_plane.kubectl("delete", *(f"--filename={path}" for path in prometheus_crds()))


@pytest.fixture(scope="session")
def prometheus_rules() -> Command:
    """tools/prometheus_rules: checks rules as Prometheus does; CalledProcessError, which has its stderr, when wrong."""

    def run(*arguments: str, input: str | None = None) -> str:
        command = [str(program("prometheus_rules")), *arguments]
        return subprocess.run(command, input=input, capture_output=True, text=True, check=True).stdout

    return run
