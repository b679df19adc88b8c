"""The tests' control plane is a real one: authentication, RBAC, admission, tokens, garbage collection, KubeRay."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import control_plane as module
from child import Child
from control_plane import ControlPlane, KubectlFailed
from process_end import ends

AUDIENCE = "finetune.dev/1234"
POD: dict[str, Any] = {"containers": [{"name": "main", "image": "localhost/none:1"}]}


def manifest(kind: str, name: str, api_version: str = "v1", **members: Any) -> str:
    meta = {"name": name, **members.pop("metadata", {})}
    return json.dumps({"apiVersion": api_version, "kind": kind, "metadata": meta, **members})


def test_users_are_who_their_kubeconfig_says(control_plane: ControlPlane) -> None:
    whoami = ("auth", "whoami", "-o", "jsonpath={.status.userInfo.username} {.status.userInfo.groups}")
    assert control_plane.kubectl(*whoami, user="admin") == 'admin ["system:masters","system:authenticated"]'
    assert control_plane.kubectl(*whoami, user="tenant") == 'tenant ["system:authenticated"]'


def test_a_token_of_another_control_plane_is_refused(control_plane: ControlPlane, tmp_path: Path) -> None:
    other = tmp_path / "other.kubeconfig"
    config = json.loads(control_plane.kubeconfig("admin").read_text())
    config["users"][0]["user"]["token"] = "0" * 32
    other.write_text(json.dumps(config))
    with pytest.raises(KubectlFailed, match="must be logged in"):
        control_plane.kubectl("get", "namespaces", user=other)


def test_a_user_may_do_what_its_rules_say_where_they_say_it(control_plane: ControlPlane, namespace: str) -> None:
    with pytest.raises(KubectlFailed, match='User "tenant" cannot list resource "pods"'):
        control_plane.kubectl("get", "pods", namespace=namespace, user="tenant")
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    lister = control_plane.with_user("lister", rules, namespace)
    assert control_plane.kubectl("get", "pods", "-o", "name", user=lister) == ""
    with pytest.raises(KubectlFailed, match="cannot list resource"):
        control_plane.kubectl("get", "pods", namespace="default", user=lister)
    everywhere = control_plane.with_user(f"lister-of-{namespace}", rules)
    assert control_plane.kubectl("get", "pods", "-o", "name", namespace=namespace, user=everywhere) == ""


@pytest.mark.parametrize(("audience", "authenticated"), [(AUDIENCE, True), ("finetune.dev/other", False)])
def test_a_token_is_good_for_its_audience_only(
    control_plane: ControlPlane, namespace: str, audience: str, authenticated: bool
) -> None:
    control_plane.kubectl("create", "-f", "-", input=manifest("Pod", "head", spec=POD), namespace=namespace)
    bound = ("--bound-object-kind=Pod", "--bound-object-name=head")
    token = control_plane.kubectl(
        "create", "token", "default", f"--audience={AUDIENCE}", *bound, namespace=namespace
    ).strip()
    review = manifest("TokenReview", "x", "authentication.k8s.io/v1", spec={"token": token, "audiences": [audience]})
    status = json.loads(control_plane.kubectl("create", "-o", "json", "-f", "-", input=review))["status"]
    assert status.get("authenticated", False) is authenticated
    if authenticated:
        assert status["user"]["username"] == f"system:serviceaccount:{namespace}:default"
        assert status["user"]["extra"]["authentication.kubernetes.io/pod-name"] == ["head"]


def test_pod_security_is_enforced(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    with pytest.raises(KubectlFailed, match='violates PodSecurity "restricted:latest"'):
        control_plane.kubectl("create", "-f", "-", input=manifest("Pod", "plain", spec=POD), namespace=namespace)


def test_a_quota_is_enforced(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.kubectl("create", "quota", "small", "--hard=count/secrets=1", namespace=namespace)
    used = "--for=jsonpath={.status.hard.count/secrets}=1"
    control_plane.kubectl("wait", used, "--timeout=30s", "quota/small", namespace=namespace)
    control_plane.kubectl("create", "secret", "generic", "first", namespace=namespace)
    with pytest.raises(KubectlFailed, match="exceeded quota: small"):
        control_plane.kubectl("create", "secret", "generic", "second", namespace=namespace)


@pytest.mark.parametrize(
    ("kind", "api_version"),
    [("ConfigMap", "v1"), ("RayCluster", "ray.io/v1")],
    ids=["of a built-in kind", "of a custom kind"],
)
def test_children_go_with_their_owner(control_plane: ControlPlane, namespace: str, kind: str, api_version: str) -> None:
    spec = (
        {"spec": {"headGroupSpec": {"rayStartParams": {}, "template": {"spec": POD}}}} if kind == "RayCluster" else {}
    )
    owner = manifest(kind, "owner", api_version, **spec)
    made = json.loads(control_plane.kubectl("create", "-o", "json", "-f", "-", input=owner, namespace=namespace))
    reference = {"apiVersion": api_version, "kind": kind, "name": "owner", "uid": made["metadata"]["uid"]}
    child = manifest("ConfigMap", "child", metadata={"ownerReferences": [reference]})
    control_plane.kubectl("create", "-f", "-", input=child, namespace=namespace)
    control_plane.kubectl("delete", kind.lower(), "owner", namespace=namespace)
    control_plane.kubectl("wait", "--for=delete", "configmap/child", "--timeout=30s", namespace=namespace)


def test_a_deleted_namespace_goes_with_all_in_it(control_plane: ControlPlane) -> None:
    control_plane.kubectl("create", "namespace", "short-lived")
    control_plane.kubectl("create", "configmap", "kept", namespace="short-lived")
    control_plane.kubectl("delete", "namespace", "short-lived", "--timeout=60s")
    with pytest.raises(KubectlFailed, match="not found"):
        control_plane.kubectl("get", "configmap", "kept", namespace="short-lived")


def test_roles_are_aggregated(control_plane: ControlPlane) -> None:
    label = {"rbac.authorization.k8s.io/aggregate-to-view": "true"}
    rules = [{"apiGroups": ["finetune.dev"], "resources": ["aggregated"], "verbs": ["get"]}]
    role = manifest("ClusterRole", "see", "rbac.authorization.k8s.io/v1", metadata={"labels": label}, rules=rules)
    control_plane.kubectl("create", "-f", "-", input=role)
    shown = '--for=jsonpath={.rules[?(@.apiGroups[0]=="finetune.dev")].resources[0]}=aggregated'
    control_plane.kubectl("wait", shown, "--timeout=30s", "clusterrole/view")


def test_kuberay_makes_the_pods_of_a_ray_job(
    control_plane: ControlPlane, namespace: str, kuberay_controller: Child
) -> None:
    group = {"rayStartParams": {}, "template": {"spec": POD}}
    spec = {
        "submissionMode": "HTTPMode",
        "entrypoint": "true",
        "rayClusterSpec": {
            "headGroupSpec": group,
            "workerGroupSpecs": [group | {"groupName": "workers", "replicas": 1, "minReplicas": 1, "maxReplicas": 1}],
        },
    }
    control_plane.kubectl(
        "create", "-f", "-", input=manifest("RayJob", "r", "ray.io/v1", spec=spec), namespace=namespace
    )
    initializing = "--for=jsonpath={.status.jobDeploymentStatus}=Initializing"
    control_plane.kubectl("wait", initializing, "--timeout=30s", "rayjob/r", namespace=namespace)
    selector = "ray.io/node-type=worker"
    control_plane.kubectl("wait", "--for=create", "pod", "-l", selector, "--timeout=30s", namespace=namespace)
    kuberay_controller.check()
    control_plane.kubectl("delete", "rayjob", "r", "--timeout=30s", namespace=namespace)
    control_plane.kubectl("wait", "--for=delete", "pod", "-l", selector, "--timeout=30s", namespace=namespace)


@pytest.fixture
def own_plane(tmp_path: Path) -> Any:
    plane = ControlPlane(tmp_path / "plane")
    yield plane
    plane.stop()


@pytest.mark.cluster
def test_data_and_address_survive_a_killed_api_server(own_plane: ControlPlane) -> None:
    own_plane.start()
    own_plane.kubectl("create", "configmap", "kept", namespace="default")
    own_plane.api_server.kill()
    with pytest.raises(KubectlFailed, match="refused"):
        own_plane.kubectl("get", "configmap", "kept", namespace="default")
    own_plane.api_server.start()
    own_plane.wait_until_ready()
    assert own_plane.kubectl("get", "configmap", "kept", "-o", "name", namespace="default") == "configmap/kept\n"


@pytest.mark.cluster
def test_a_control_plane_that_cannot_start_says_why(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path / "plane", api_flags=["--no-such-flag"])
    try:
        with pytest.raises(
            RuntimeError, match=r"(?s)kube-apiserver ended with exit code 1.*unknown flag: --no-such-flag"
        ):
            plane.start()
    finally:
        plane.stop()


ABANDON = """
import os, pathlib, signal, sys
from control_plane import ControlPlane
plane = ControlPlane(pathlib.Path(sys.argv[1]))
plane.start()
plane.controllers.start()
print(*(child.pid for child in (plane.etcd, plane.api_server, plane.controllers)), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.cluster
def test_a_control_plane_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(module.__file__).parent)}
    command = [sys.executable, "-c", ABANDON, str(tmp_path / "plane")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == -signal.SIGKILL, run.stderr
    pids = [int(word) for word in run.stdout.split()]
    assert len(pids) == 3
    for pid in pids:
        assert ends(pid), f"{pid} lives on"
