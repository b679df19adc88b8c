"""Checks of what a cluster administrator installs: API server, definitions, KubeRay, the operator. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from finetune_operator.crd.documents import SUPPORTED_SINCE
from finetune_operator.doctor.finding import Finding, Seen, State, unreadable
from finetune_operator.kube.resources import Object

RENEW_CRDS = "helm show crds charts/finetune-operator | kubectl apply --server-side --force-conflicts --filename -"
INSTALL_KUBERAY = (
    "helm upgrade --install kuberay-operator kuberay/kuberay-operator --namespace kuberay-system --create-namespace"
)
OPERATOR = "finetune-operator"
KUBERAY = "kuberay-operator"
KUBERAY_SINCE = (1, 6)
NAME_LABEL = "app.kubernetes.io/name"
KUBERAY_NAMES = ("kuberay", KUBERAY)
KUBERAY_FLAG = "--kuberay-namespace="

TAG = re.compile(r":v?(\d+)\.(\d+)[^/:@]*(@.*)?$")
NEVER_SECONDS = 60.0
"""A lease that was renewed longer ago is held by nobody: it lasts 15 seconds, the rest is for clocks that differ."""


def judge_server(address: str, version: Object) -> Finding:
    """Whether the API server is new enough; `version` is what /version says."""
    check, found = "API server", f"{address}, Kubernetes {version.get('gitVersion', 'of an unknown version')}"
    numbers = re.match(r"v?(\d+)\.(\d+)", str(version.get("gitVersion", "")))
    if numbers is None:
        return Finding(check, State.WARNING, found, f"make sure that it is {SUPPORTED_SINCE} or newer")
    if (int(numbers[1]), int(numbers[2])) < tuple(int(part) for part in SUPPORTED_SINCE.split(".")):
        return Finding(check, State.FAILED, found, f"upgrade the cluster to {SUPPORTED_SINCE} or newer")
    return Finding(check, State.OK, found)


def judge_crd(expected: Object, seen: Seen) -> Finding:
    """Whether a definition of ours is there, served, and the one that this version generates."""
    name = expected["metadata"]["name"]
    check = f"CRD {name}"
    if seen.refused:
        return unreadable(check, seen)
    if seen.first is None:
        return Finding(check, State.FAILED, "there is none", RENEW_CRDS)
    if not holds(seen.first, "Established"):
        return Finding(check, State.FAILED, "it is not established", f"see: kubectl describe crd {name}")
    if _schemas(seen.first) != _schemas(expected):
        return Finding(check, State.FAILED, "its schema is not that of this version", RENEW_CRDS)
    return Finding(check, State.OK, "established, with the schema of this version")


def _schemas(crd: Object) -> dict[str, Any]:
    return {version["name"]: version.get("schema") for version in crd["spec"]["versions"]}


def judge_ray_crd(seen: Seen) -> Finding:
    """Whether KubeRay's RayJob is defined."""
    check = "CRD rayjobs.ray.io"
    if seen.refused:
        return unreadable(check, seen)
    if seen.first is None:
        return Finding(check, State.FAILED, "there is none: KubeRay is not installed", INSTALL_KUBERAY)
    served = [version["name"] for version in seen.first["spec"]["versions"] if version.get("served")]
    if not holds(seen.first, "Established") or "v1" not in served:
        found = f"v1 is not served (versions: {', '.join(served) or 'none'})"
        return Finding(check, State.FAILED, found, f"install KubeRay 1.6 or newer: {INSTALL_KUBERAY}")
    return Finding(check, State.OK, "established")


def judge_kuberay(deployments: Seen) -> list[Finding]:
    """Whether each operator of KubeRay that there is runs, in a version that has what jobs need."""
    check = "KubeRay's operator"
    if deployments.refused:
        return [unreadable(check, deployments)]
    found = kuberay_among(deployments.objects)
    if not found:
        text = f"no namespace has a Deployment {KUBERAY} or one labelled {NAME_LABEL}=kuberay"
        return [Finding(check, State.FAILED, text, INSTALL_KUBERAY)]
    return [_kuberay(check, one) for one in found]


def _kuberay(check: str, deployment: Object) -> Finding:
    place, image = _place(deployment), _image(deployment)
    version = TAG.search(image)
    if not holds(deployment, "Available"):
        return Finding(check, State.FAILED, f"{place} is not available", _describe(deployment))
    if version is None:
        remedy = "make sure that it is KubeRay 1.6 or newer"
        return Finding(check, State.WARNING, f"{place} is available; its image {image} does not tell a version", remedy)
    if (int(version[1]), int(version[2])) < KUBERAY_SINCE:
        remedy = f"upgrade KubeRay to 1.6 or newer, its CRDs too: {INSTALL_KUBERAY}"
        return Finding(check, State.FAILED, f"{place} is {version[1]}.{version[2]} ({image})", remedy)
    return Finding(check, State.OK, f"{place} is available ({image})")


def kuberay_among(deployments: Sequence[Object]) -> list[Object]:
    """The Deployments that are KubeRay's operator."""
    labelled = [(one, (one["metadata"].get("labels") or {}).get(NAME_LABEL)) for one in deployments]
    return [one for one, label in labelled if one["metadata"]["name"] == KUBERAY or label in KUBERAY_NAMES]


def operator_among(deployments: Sequence[Object]) -> Object | None:
    """The Deployment of our operator."""
    return next((one for one in deployments if one["metadata"]["name"] == OPERATOR), None)


def judge_operator(deployments: Seen) -> list[Finding]:
    """Whether our operator's Deployment is available and lets KubeRay in from where it runs."""
    check = "operator"
    if deployments.refused:
        return [unreadable(check, deployments)]
    ours = operator_among(deployments.objects)
    if ours is None:
        remedy = "helm install finetune charts/finetune-operator --namespace finetune-system --create-namespace"
        return [Finding(check, State.FAILED, f"no namespace has a Deployment {OPERATOR}", remedy)]
    if not holds(ours, "Available"):
        return [Finding(check, State.FAILED, f"{_place(ours)} is not available", _describe(ours))]
    ready = (ours.get("status") or {}).get("availableReplicas", 0)
    told = f"{_place(ours)} is available, {ready} of {ours['spec'].get('replicas', 1)} replicas ({_image(ours)})"
    return [Finding(check, State.OK, told), *_namespace_of_kuberay(ours, kuberay_among(deployments.objects))]


def _namespace_of_kuberay(ours: Object, kuberay: Sequence[Object]) -> Iterator[Finding]:
    """The network policies of jobs let in KubeRay's operator from one namespace only, that of the chart's value."""
    arguments = ours["spec"]["template"]["spec"]["containers"][0].get("args") or []
    told = [one.removeprefix(KUBERAY_FLAG) for one in arguments if one.startswith(KUBERAY_FLAG)]
    expected = next(iter(told), "") or ours["metadata"]["namespace"]
    there = sorted({one["metadata"]["namespace"] for one in kuberay})
    if there and expected not in there:
        found = f"jobs let in KubeRay from namespace {expected}, and it runs in {', '.join(there)}"
        remedy = f"helm upgrade finetune charts/finetune-operator ... --set kuberay.namespace={there[0]}"
        yield Finding("KubeRay's namespace", State.FAILED, found, remedy)


def judge_lease(deployment: Object, lease: Seen, now: datetime) -> Finding:
    """Whether a replica leads; `now` is this machine's clock, aware of its zone."""
    check, namespace = "operator's leader", deployment["metadata"]["namespace"]
    remedy = f"kubectl --namespace {namespace} logs deployment/{OPERATOR}"
    if lease.refused:
        return unreadable(check, lease)
    spec = (lease.first or {}).get("spec") or {}
    holder, renewed = spec.get("holderIdentity"), spec.get("renewTime")
    if not holder or not renewed:
        return Finding(check, State.FAILED, f"nobody holds the Lease {namespace}/{OPERATOR}", remedy)
    age = (now - datetime.fromisoformat(renewed)).total_seconds()
    if age > NEVER_SECONDS:
        found = f"{holder} renewed the Lease {namespace}/{OPERATOR} {age:.0f} s ago by this machine's clock"
        return Finding(check, State.FAILED, found, remedy)
    return Finding(check, State.OK, f"{holder} leads")


def holds(found: Object, condition: str) -> bool:
    """Whether a condition of the object's status is True."""
    said = (found.get("status") or {}).get("conditions") or ()
    return any(one["type"] == condition and one["status"] == "True" for one in said)


def _place(deployment: Object) -> str:
    return f"{deployment['metadata']['namespace']}/{deployment['metadata']['name']}"


def _image(deployment: Object) -> str:
    return str(deployment["spec"]["template"]["spec"]["containers"][0].get("image", ""))


def _describe(deployment: Object) -> str:
    metadata = deployment["metadata"]
    return f"kubectl --namespace {metadata['namespace']} describe deployment,pods {metadata['name']}"
