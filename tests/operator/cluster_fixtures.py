"""The real control plane of the operator's tests: started once per session, built before the first test's clock runs.

A test that uses it, directly or not, is marked `cluster`.
"""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Protocol

import pytest

from child import Child
from cluster_programs import kuberay_crds, program
from control_plane import ControlPlane, serving
from kube_proxy import KubeProxy, kube_proxy

ROOT = Path(__file__).resolve().parents[2]
OUR_CRDS = ROOT / "charts" / "finetune-operator" / "crds"
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl", "kuberay-operator")
FIXTURE_PROGRAMS = ("helm", "prometheus_rules")
"""Programs that only tests with a fixture of the same name use."""


class Command(Protocol):
    """Runs a program with these arguments and returns what it prints."""

    def __call__(self, *arguments: str, input: str | None = None) -> str: ...


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "control_plane" in getattr(item, "fixturenames", ()):
            item.add_marker("cluster")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what the chosen tests start: minutes on a new machine, seen by the user and counted for no test."""
    if session.config.option.collectonly:
        return
    needed = PROGRAMS if any(item.get_closest_marker("cluster") for item in session.items) else ()
    asked = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    needed = (*needed, *(name for name in FIXTURE_PROGRAMS if name in asked))
    capture = session.config.pluginmanager.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else nullcontext():
        for name in needed:
            program(name)
        if needed:
            kuberay_crds()


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A real API server with etcd, the controllers of control_plane_commands.CONTROLLERS, our CRDs and KubeRay's."""
    crds = [OUR_CRDS] if OUR_CRDS.exists() else []
    with serving(tmp_path_factory.mktemp("control-plane"), crds) as plane:
        yield plane


@pytest.fixture
def kubectl(control_plane: ControlPlane) -> Command:
    """kubectl as the administrator; KubectlFailed, which has its stderr, when it ends with another code than 0.

    `control_plane.kubectl` takes the user and the namespace too.
    """
    return control_plane.kubectl


@pytest.fixture
def proxy(control_plane: ControlPlane) -> Iterator[KubeProxy]:
    """A fault-injecting proxy in front of the API server."""
    with kube_proxy(control_plane) as proxy:
        yield proxy


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A fresh namespace with its default ServiceAccount; it is deleted in the end, which nobody waits for."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    control_plane.kubectl("create", "namespace", name)
    control_plane.wait_for_service_account(name)
    yield name
    control_plane.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def kuberay_controller(control_plane: ControlPlane, namespace: str) -> Iterator[Child]:
    """KubeRay's operator, for the test's namespace only: in the others, tests play its part."""
    child = control_plane.start_kuberay([namespace])
    yield child
    child.kill()


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """helm, with its files in a temporary folder; CalledProcessError, which has its stderr, when it fails.

    Give it --kubeconfig yourself.
    """
    home = tmp_path_factory.mktemp("helm")
    environment = {f"HELM_{kind}_HOME": str(home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
    environment["HOME"] = str(home)  # where it keeps what it asked an API server for

    def run(*arguments: str, input: str | None = None) -> str:
        command = [str(program("helm")), *arguments]
        done = subprocess.run(command, env=environment, input=input, capture_output=True, text=True, check=True)
        return done.stdout

    return run
