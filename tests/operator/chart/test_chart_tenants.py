"""People who have Kubernetes' own roles in a namespace have them for jobs there, and for nothing of the platform's."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from ruamel.yaml import YAML

from cluster_fixtures import Command
from control_plane import ControlPlane, KubectlFailed
from looks import manifest
from render_chart import template

PATIENCE = 30.0


@pytest.fixture(scope="module")
def roles(control_plane: ControlPlane, helm: Command) -> Iterator[None]:
    """The chart's roles for tenants; everybody may see the runtimes."""
    shown = ["--show-only=templates/tenant-roles.yaml", "--set=tenantRoles.runtimeReaders[0]=system:authenticated"]
    text = helm(*template(*shown))
    control_plane.kubectl("apply", "--server-side", "-f", "-", input=text)
    yield
    control_plane.kubectl("delete", "-f", "-", input=text)


class Tenant:
    """The user `tenant` with one of Kubernetes' roles in a namespace."""

    def __init__(self, plane: ControlPlane, namespace: str, role: str) -> None:
        self._plane, self._namespace = plane, namespace
        binding = ["create", "rolebinding", role, f"--clusterrole={role}", "--user=tenant"]
        plane.kubectl(*binding, namespace=namespace)
        self.wait_until(lambda: self.may("get", "finetunejobs"))  # a controller puts roles together

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        return self._plane.kubectl(*arguments, input=input, user="tenant", namespace=self._namespace)

    def may(self, *question: str) -> bool:
        try:
            self.kubectl("auth", "can-i", "--quiet", *question)
        except KubectlFailed:
            return False
        return True

    def wait_until(self, condition: Callable[[], bool]) -> None:
        pause, end = threading.Event(), time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end
            pause.wait(0.1)


def job(namespace: str) -> str:
    body = manifest()
    body["metadata"]["namespace"] = namespace
    return json.dumps(body)


@pytest.mark.usefixtures("roles")
@pytest.mark.parametrize("role", ["edit", "admin"])
def test_who_may_edit_runs_jobs(control_plane: ControlPlane, namespace: str, role: str) -> None:
    tenant = Tenant(control_plane, namespace, role)
    tenant.wait_until(lambda: tenant.may("create", "finetunejobs"))
    tenant.kubectl("apply", "-f", "-", input=job(namespace))
    tenant.kubectl("patch", "finetunejob", "support-bot", "--type=merge", "-p", '{"spec": {"suspend": true}}')
    assert "support-bot" in tenant.kubectl("get", "finetunejobs")
    status = ("--subresource=status", "--type=merge", "-p", '{"status": {"phase": "Succeeded"}}')
    with pytest.raises(KubectlFailed, match='cannot patch resource "finetunejobs/status"'):
        tenant.kubectl("patch", "finetunejob", "support-bot", *status)
    tenant.kubectl("delete", "finetunejob", "support-bot")
    assert not tenant.may("patch", "finetuneruntimes")


@pytest.mark.usefixtures("roles")
def test_who_may_view_sees_jobs_and_changes_none(control_plane: ControlPlane, namespace: str) -> None:
    tenant = Tenant(control_plane, namespace, "view")
    control_plane.kubectl("apply", "-f", "-", input=job(namespace))
    assert "support-bot" in tenant.kubectl("get", "finetunejobs")
    for verb in ("create", "update", "patch", "delete", "deletecollection"):
        assert not tenant.may(verb, "finetunejobs")


@pytest.mark.usefixtures("roles")
def test_runtimes_are_seen_by_those_who_are_named(control_plane: ControlPlane) -> None:
    control_plane.kubectl("get", "finetuneruntimes", user="tenant")
    with pytest.raises(KubectlFailed, match="cannot delete resource"):
        control_plane.kubectl("delete", "finetuneruntimes", "some", user="tenant")


def test_without_readers_there_is_no_role_for_runtimes(helm: Command) -> None:
    names = {one["metadata"]["name"] for one in YAML(typ="safe").load_all(helm(*template())) if one}
    assert "finetune-operator-runtimes" not in names
