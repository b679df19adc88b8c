"""Kinds of the Kubernetes API: where each one lives on the API server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
"""One Kubernetes object as the API server writes it in JSON."""


@dataclass(frozen=True)
class Resource:
    """One kind of object. `plural` is its name in addresses; `group` is empty for the core API.

    `provider` is what to install where the API server does not know it.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    provider: str = "what defines it"

    @property
    def api_version(self) -> str:
        """Return what `apiVersion` says in objects of this kind."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """Return the path of all objects, those of a namespace, one object, or a part of it such as `status`."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        place = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return "".join([root, place, f"/{self.plural}", *(f"/{part}" for part in (name, subresource) if part)])


CRDS = "the CRDs of the chart finetune-operator (its folder crds)"
JOBS = Resource("finetune.dev", "v1alpha1", "finetunejobs", "FineTuneJob", provider=CRDS)
RUNTIMES = Resource("finetune.dev", "v1alpha1", "finetuneruntimes", "FineTuneRuntime", namespaced=False, provider=CRDS)
RAYJOBS = Resource("ray.io", "v1", "rayjobs", "RayJob", provider="KubeRay 1.6 or newer")
RAYCLUSTERS = Resource("ray.io", "v1", "rayclusters", "RayCluster")
WORKLOADS = Resource("kueue.x-k8s.io", "v1beta2", "workloads", "Workload")
PODS = Resource("", "v1", "pods", "Pod")
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
CONFIGMAPS = Resource("", "v1", "configmaps", "ConfigMap")
SECRETS = Resource("", "v1", "secrets", "Secret")
SERVICEACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
NETWORKPOLICIES = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
PDBS = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
REVISIONS = Resource("apps", "v1", "controllerrevisions", "ControllerRevision")
EVENTS = Resource("", "v1", "events", "Event")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
TOKENREVIEWS = Resource("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", namespaced=False)
ACCESS_REVIEWS = Resource(
    "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False
)
DEFINITIONS = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
