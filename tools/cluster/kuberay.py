"""KubeRay in a cluster: its own published manifests, with its operator's program in this machine's image."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from cluster.node_files import MACHINE_RUNTIME
from cluster_programs import kuberay_manifests, program
from control_plane import ControlPlane

NAMESPACE = "kuberay-system"


def install_kuberay(plane: ControlPlane, folder: Path, image: str) -> None:
    """Apply the manifests and return when the operator is available; `folder` is for the patched copy."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(kuberay_manifests(), folder / "config")
    (folder / "kustomization.yaml").write_text(json.dumps(kustomization(image)), encoding="utf-8")
    plane.kubectl("create", "namespace", NAMESPACE)
    plane.kubectl("apply", "--server-side", "-k", str(folder))
    plane.kubectl("rollout", "status", "deployment/kuberay-operator", "--timeout=120s", namespace=NAMESPACE)


def kustomization(image: str) -> dict[str, object]:
    """What is changed of the release: the image, and probes that need not be patient."""
    container = "/spec/template/spec/containers/0"
    resources = {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}
    patch = [
        {"op": "replace", "path": f"{container}/image", "value": image},
        {"op": "replace", "path": f"{container}/command", "value": [str(program("kuberay-operator"))]},
        {"op": "replace", "path": f"{container}/resources", "value": resources},
        {"op": "add", "path": f"{container}/imagePullPolicy", "value": "Never"},
        {"op": "add", "path": f"{container}/securityContext/runAsUser", "value": 65534},  # the image names none
        {"op": "replace", "path": f"{container}/readinessProbe/initialDelaySeconds", "value": 1},
        {"op": "replace", "path": f"{container}/readinessProbe/periodSeconds", "value": 1},
        {"op": "add", "path": "/spec/template/spec/runtimeClassName", "value": MACHINE_RUNTIME},
    ]
    target = {"kind": "Deployment", "name": "kuberay-operator"}
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": NAMESPACE,
        "resources": ["config/default"],
        "patches": [{"target": target, "patch": json.dumps(patch)}],
    }
