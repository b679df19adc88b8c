"""`finetune doctor`, as a process, against a real API server in healthy and broken states."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from control_plane import ControlPlane
from s3_bucket import Bucket
from s3_server import free_port

Object = dict[str, Any]
Findings = dict[str, tuple[str, str]]

CRD = "crd/finetunejobs.finetune.dev"
GOOD = "quay.io/kuberay/operator:v1.6.2"


def run(kubeconfig: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    main = "from finetune_trainer.cli.app import main; main()"
    command = [sys.executable, "-c", main, "doctor", "--kubeconfig", str(kubeconfig), *arguments]
    environment = os.environ | {"COLUMNS": "200"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def doctor(kubeconfig: Path, *arguments: str, code: int) -> Findings:
    """State and text by check."""
    done = run(kubeconfig, *arguments, "--output", "json")
    assert (done.returncode, done.stderr) == (code, "")
    return {one["check"]: (one["state"], one["found"]) for one in json.loads(done.stdout)}


def states(findings: Findings) -> dict[str, str]:
    return {check: state for check, (state, _) in findings.items()}


def deploy(plane: ControlPlane, namespace: str, name: str, image: str, *args: str) -> None:
    """A Deployment that says that it is available; there is no node for its pods."""
    labels = {"app": name}
    container = {"name": "operator", "image": image, "args": list(args)}
    spec = {
        "replicas": 2,
        "selector": {"matchLabels": labels},
        "paused": True,
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
    }
    apply(plane, "apps/v1", "Deployment", {"name": name, "namespace": namespace}, spec=spec)
    available(plane, namespace, name, "True")


def available(plane: ControlPlane, namespace: str, name: str, status: str) -> None:
    condition = {"type": "Available", "status": status, "reason": "Test", "message": ""}
    patch = json.dumps(
        {"status": {"conditions": [condition], "replicas": 2, "readyReplicas": 2, "availableReplicas": 2}}
    )
    patching = ["patch", "deployment", name, "--subresource=status", "--type=merge", "--patch", patch]
    plane.kubectl(*patching, namespace=namespace)


def apply(plane: ControlPlane, api_version: str, kind: str, metadata: Object, **parts: Any) -> None:
    manifest = {"apiVersion": api_version, "kind": kind, "metadata": metadata, **parts}
    plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=json.dumps(manifest))


def lease(plane: ControlPlane, namespace: str, renewed: datetime) -> None:
    spec = {"holderIdentity": "pod-1", "leaseDurationSeconds": 15, "renewTime": f"{renewed:%Y-%m-%dT%H:%M:%S.%fZ}"}
    metadata = {"name": "finetune-operator", "namespace": namespace}
    apply(plane, "coordination.k8s.io/v1", "Lease", metadata, spec=spec)


@pytest.fixture
def cluster(control_plane: ControlPlane, namespace: str) -> Iterator[ControlPlane]:
    """A control plane with everything installed in `namespace`, and a node with 8 GPUs."""
    plane = control_plane
    deploy(plane, namespace, "kuberay-operator", GOOD)
    deploy(plane, namespace, "finetune-operator", "registry/operator:1")
    lease(plane, namespace, datetime.now(UTC))
    runtime = {"image": "t:1", "gpu": {"product": namespace}, "storage": {"caConfigMap": {"name": "store-ca"}}}
    apply(plane, "finetune.dev/v1alpha1", "FineTuneRuntime", {"name": namespace}, spec=runtime)
    labels = {"nvidia.com/gpu.product": namespace}
    apply(plane, "v1", "Node", {"name": namespace, "labels": labels})
    ready = {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"nvidia.com/gpu": "8"}}
    patching = ["patch", "node", namespace, "--subresource=status", "--type=merge"]
    plane.kubectl(*patching, "--patch", json.dumps({"status": ready}))
    plane.kubectl("create", "configmap", "store-ca", "--from-literal=ca.crt=PEM", namespace=namespace)
    keys = ["--from-literal=AWS_ACCESS_KEY_ID=some-id", "--from-literal=AWS_SECRET_ACCESS_KEY=some-secret"]
    plane.kubectl("create", "secret", "generic", "s3", *keys, namespace=namespace)
    yield plane
    plane.kubectl("delete", f"node/{namespace}", f"finetuneruntime/{namespace}")
    plane.kubectl("delete", "deployment", "--all", namespace=namespace)


def asked(namespace: str) -> list[str]:
    return ["--runtime", namespace, "--namespace", namespace, "--secret", "s3"]


def test_a_healthy_cluster_passes_every_check(cluster: ControlPlane, namespace: str, bucket: Bucket) -> None:
    found = doctor(cluster.kubeconfig(), *asked(namespace), "--bucket", f"{bucket.uri}/runs", code=0)
    assert states(found) == dict.fromkeys(
        [
            "API server",
            "CRD finetunejobs.finetune.dev",
            "CRD finetuneruntimes.finetune.dev",
            "CRD rayjobs.ray.io",
            "KubeRay's operator",
            "operator",
            "operator's leader",
            f"FineTuneRuntime {namespace}",
            "GPU nodes",
            f"namespace {namespace}",
            f"rights in {namespace}",
            f"ConfigMap {namespace}/store-ca",
            f"Secret {namespace}/s3",
            "S3 store",
        ],
        "ok",
    )
    assert cluster.url in found["API server"][1]
    assert found["GPU nodes"][1] == f"1 ready with 8 nvidia.com/gpu on {namespace}"


def test_everything_that_is_broken_is_told_at_once(cluster: ControlPlane, namespace: str, bucket: Bucket) -> None:
    deploy(cluster, namespace, "kuberay-operator", "quay.io/kuberay/operator:v1.5.1")
    deploy(cluster, namespace, "finetune-operator", "registry/operator:1", "--kuberay-namespace=elsewhere")
    lease(cluster, namespace, datetime(2026, 1, 1, tzinfo=UTC))
    cluster.kubectl("delete", "configmap/store-ca", namespace=namespace)
    cluster.kubectl("patch", "secret/s3", "--patch", '{"data": {"AWS_ACCESS_KEY_ID": null}}', namespace=namespace)
    cluster.kubectl("cordon", namespace)
    found = doctor(cluster.kubeconfig(), *asked(namespace), "--bucket", "s3://no-such-bucket-here", code=1)
    assert {check: state for check, state in states(found).items() if state != "ok"} == {
        "KubeRay's operator": "failed",
        "KubeRay's namespace": "failed",
        "operator's leader": "failed",
        "GPU nodes": "warning",
        f"ConfigMap {namespace}/store-ca": "failed",
        f"Secret {namespace}/s3": "failed",
        "S3 store": "failed",
    }
    assert found[f"Secret {namespace}/s3"][1] == "has no AWS_ACCESS_KEY_ID"
    assert "the bucket 'no-such-bucket-here' does not exist" in found["S3 store"][1]


def test_operators_that_are_not_available_fail(cluster: ControlPlane, namespace: str) -> None:
    for name in ("kuberay-operator", "finetune-operator"):
        available(cluster, namespace, name, "False")
    found = doctor(cluster.kubeconfig(), "--runtime", "no-such-runtime", code=1)
    assert {check: text for check, (state, text) in found.items() if state == "failed"} == {
        "KubeRay's operator": f"{namespace}/kuberay-operator is not available",
        "operator": f"{namespace}/finetune-operator is not available",
        "FineTuneRuntime no-such-runtime": "there is none",
    }


def test_a_definition_of_another_version_fails(cluster: ControlPlane, namespace: str) -> None:
    path = "/spec/versions/0/schema/openAPIV3Schema/description"
    before = cluster.kubectl("get", CRD, "-o", "jsonpath={.spec.versions[0].schema.openAPIV3Schema.description}")
    try:
        change(cluster, path, "of another version")
        found = doctor(cluster.kubeconfig(), "--runtime", namespace, code=1)
    finally:
        change(cluster, path, before)
    assert {check: text for check, (state, text) in found.items() if state == "failed"} == {
        "CRD finetunejobs.finetune.dev": "its schema is not that of this version"
    }


def change(plane: ControlPlane, path: str, value: str) -> None:
    patch = json.dumps([{"op": "replace", "path": path, "value": value}])
    plane.kubectl("patch", CRD, "--type=json", "--patch", patch)


def test_who_may_read_nothing_is_told_which_rights_are_missing(cluster: ControlPlane, namespace: str) -> None:
    nobody = cluster.with_user("nobody", [], namespace)
    found = doctor(nobody, *asked(namespace), code=1)
    missing = "not checked: you may not "
    assert {check: text.removeprefix(missing) for check, (state, text) in found.items() if state == "warning"} == {
        "CRD finetunejobs.finetune.dev": "get customresourcedefinitions.apiextensions.k8s.io",
        "CRD finetuneruntimes.finetune.dev": "get customresourcedefinitions.apiextensions.k8s.io",
        "CRD rayjobs.ray.io": "get customresourcedefinitions.apiextensions.k8s.io",
        "KubeRay's operator": "list deployments.apps in all namespaces",
        "operator": "list deployments.apps in all namespaces",
        f"FineTuneRuntime {namespace}": "get finetuneruntimes.finetune.dev",
        f"namespace {namespace}": "get namespaces",
        f"Secret {namespace}/s3": f"get secrets in namespace {namespace}",
    }
    assert {check for check, state in states(found).items() if state == "failed"} == {f"rights in {namespace}"}


def test_people_get_a_table_and_commands_in_one_line(cluster: ControlPlane, namespace: str) -> None:
    done = run(cluster.kubeconfig(), "--runtime", namespace, "--namespace", namespace, "--secret", "none")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[0].split() == ["Check", "State", "Found"]
    create = f"kubectl --namespace {namespace} create secret generic none"
    assert f"\nSecret {namespace}/none: {create} --from-literal=AWS_ACCESS_KEY_ID=<value>" in done.stdout
    assert "some-secret" not in done.stdout


def test_the_command_for_a_secret_without_a_key_mends_it(cluster: ControlPlane, namespace: str) -> None:
    cluster.kubectl("patch", "secret/s3", "--patch", '{"data": {"AWS_ACCESS_KEY_ID": null}}', namespace=namespace)
    (broken,) = [
        one for one in json.loads(run(cluster.kubeconfig(), *asked(namespace), "-o", "json").stdout) if one["remedy"]
    ]
    cluster.kubectl(*shlex.split(broken["remedy"])[1:])
    assert set(states(doctor(cluster.kubeconfig(), *asked(namespace), code=0)).values()) == {"ok"}


def test_a_server_that_does_not_answer_is_named(control_plane: ControlPlane, tmp_path: Path) -> None:
    address = f"https://127.0.0.1:{free_port()}"
    config = tmp_path / "config"
    config.write_text(control_plane.kubeconfig().read_text().replace(control_plane.url, address))
    ((check, (state, text)),) = doctor(config, code=1).items()
    assert (check, state) == ("API server", "failed")
    assert text.startswith(f"{address}: ")


def test_a_kubeconfig_that_is_not_there_is_named(tmp_path: Path) -> None:
    ((check, (state, text)),) = doctor(tmp_path / "none", code=1).items()
    assert (check, state) == ("API server", "failed")
    assert str(tmp_path / "none") in text
