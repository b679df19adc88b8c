"""The programs of a Kubernetes control plane and what goes with them, from the Go modules beside this file.

KUBEBUILDER_ASSETS, the folder that Kubernetes' own envtest uses, goes first: what is in it is not built.

    python tools/cluster_programs.py [kubectl ...]      builds them (all when none is named) and prints their paths
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import go_build

HERE = Path(__file__).resolve().parent
KUBERNETES = HERE / "kubernetes"
KUBERAY = HERE / "kuberay"
KUBERAY_MODULE = "github.com/ray-project/kuberay/ray-operator"
KUBEFLOW_TRAINER = HERE / "kubeflow_trainer"
KUBEFLOW_TRAINER_MODULE = "github.com/kubeflow/trainer/v2"
KUEUE = HERE / "kueue"
KUEUE_MODULE = "sigs.k8s.io/kueue"
PROMETHEUS = HERE / "prometheus_operator"
CONTAINERD = HERE / "containerd"
CONTAINERD_MODULE = "github.com/containerd/containerd/v2"
PROMETHEUS_MODULE = "github.com/prometheus-operator/prometheus-operator"
NODE_TAGS = ("no_btrfs", "no_devmapper", "no_zfs")  # snapshotters of containerd that need libraries of the machine
TOOLS = {  # name: module, package
    "etcd": (HERE / "etcd", "go.etcd.io/etcd/server/v3"),
    "kube-apiserver": (KUBERNETES, "k8s.io/kubernetes/cmd/kube-apiserver"),
    "kube-controller-manager": (KUBERNETES, "k8s.io/kubernetes/cmd/kube-controller-manager"),
    "kube-scheduler": (KUBERNETES, "k8s.io/kubernetes/cmd/kube-scheduler"),
    "kubelet": (KUBERNETES, "k8s.io/kubernetes/cmd/kubelet"),
    "kube-proxy": (KUBERNETES, "k8s.io/kubernetes/cmd/kube-proxy"),
    "containerd": (CONTAINERD, f"{CONTAINERD_MODULE}/cmd/containerd"),
    "containerd-shim-runc-v2": (CONTAINERD, f"{CONTAINERD_MODULE}/cmd/containerd-shim-runc-v2"),
    "ctr": (CONTAINERD, f"{CONTAINERD_MODULE}/cmd/ctr"),
    "coredns": (HERE / "coredns", "github.com/coredns/coredns"),
    "kubectl": (KUBERNETES, "k8s.io/kubernetes/cmd/kubectl"),
    "kuberay-operator": (KUBERAY, KUBERAY_MODULE),
    "helm": (HERE / "helm", "helm.sh/helm/v3/cmd/helm"),
    "kubeflow-trainer": (KUBEFLOW_TRAINER, f"{KUBEFLOW_TRAINER_MODULE}/cmd/trainer-controller-manager"),
    "prometheus_rules": (HERE / "prometheus_rules", "."),
}


def program(name: str) -> Path:
    """Return the program `name`, one of TOOLS, building it first if this machine has not done so.

    Raises CalledProcessError when Go's compiler or the download of its modules fails.
    """
    given = Path(os.environ.get("KUBEBUILDER_ASSETS") or os.devnull, name)
    if given.exists():
        return given
    source, package = TOOLS[name]
    if source == CONTAINERD:
        return go_build.tool(source, name, package, tags=NODE_TAGS, cgo=False)
    return go_build.tool(source, name, package, version_definitions() if source == KUBERNETES else ())


def version_definitions() -> list[str]:
    """Return what makes a built Kubernetes say its version; left alone, it calls itself v0.0.0-master."""
    version = go_build.required(KUBERNETES, "k8s.io/kubernetes")
    major, minor, _ = version.removeprefix("v").split(".", 2)
    base = "k8s.io/component-base/version"
    return [f"{base}.gitVersion={version}", f"{base}.gitMajor={major}", f"{base}.gitMinor={minor}"]


def pause() -> Path:
    """Return the program that holds a pod's namespaces open, which needs no library."""
    return go_build.binary(HERE / "pause")


def kuberay_manifests() -> Path:
    """Return the folder of KubeRay's manifests for kustomize, as its release publishes them."""
    return go_build.module_folder(KUBERAY, KUBERAY_MODULE, "config")


def kuberay_crds() -> Path:
    """Return the folder of KubeRay's CustomResourceDefinitions, as its release publishes them."""
    return go_build.module_folder(KUBERAY, KUBERAY_MODULE, "config/crd/bases")


def kubeflow_trainer_crds() -> list[Path]:
    """Return the CustomResourceDefinitions of Kubeflow Trainer and of the JobSets that it makes."""
    own = go_build.module_folder(KUBEFLOW_TRAINER, KUBEFLOW_TRAINER_MODULE, "manifests/base/crds")
    jobset = go_build.module_folder(KUBEFLOW_TRAINER, "sigs.k8s.io/jobset", "config/components/crd/bases")
    return [*sorted(own.glob("trainer.kubeflow.org_*.yaml")), jobset]


def prometheus_crds() -> list[Path]:
    """Return the CustomResourceDefinitions of ServiceMonitor and PrometheusRule, from the Prometheus operator."""
    folder = go_build.module_folder(PROMETHEUS, PROMETHEUS_MODULE, "example/prometheus-operator-crd")
    return [folder / f"monitoring.coreos.com_{plural}.yaml" for plural in ("servicemonitors", "prometheusrules")]


def kueue_crds() -> list[Path]:
    """Return the CustomResourceDefinition of Kueue's Workload, with the versions that it serves."""
    folder = go_build.module_folder(KUEUE, KUEUE_MODULE, "config/components/crd/bases")
    return [folder / "kueue.x-k8s.io_workloads.yaml"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TOOLS)}")
    names = parser.parse_args().names or list(TOOLS)
    if unknown := [name for name in names if name not in TOOLS]:
        parser.error(f"no such program: {', '.join(unknown)}; write one of {', '.join(TOOLS)}")
    for name in names:
        print(program(name), flush=True)


if __name__ == "__main__":
    main()
