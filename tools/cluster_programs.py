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
TOOLS = {  # name: module, package
    "etcd": (HERE / "etcd", "go.etcd.io/etcd/server/v3"),
    "kube-apiserver": (KUBERNETES, "k8s.io/kubernetes/cmd/kube-apiserver"),
    "kube-controller-manager": (KUBERNETES, "k8s.io/kubernetes/cmd/kube-controller-manager"),
    "kubectl": (KUBERNETES, "k8s.io/kubernetes/cmd/kubectl"),
    "kuberay-operator": (KUBERAY, KUBERAY_MODULE),
    "helm": (HERE / "helm", "helm.sh/helm/v3/cmd/helm"),
}


def program(name: str) -> Path:
    """Return the program `name`, one of TOOLS, building it first if this machine has not done so.

    Raises CalledProcessError when Go's compiler or the download of its modules fails.
    """
    given = Path(os.environ.get("KUBEBUILDER_ASSETS") or os.devnull, name)
    if given.exists():
        return given
    source, package = TOOLS[name]
    return go_build.tool(source, name, package, version_definitions() if source == KUBERNETES else ())


def version_definitions() -> list[str]:
    """Return what makes a built Kubernetes say its version; left alone, it calls itself v0.0.0-master."""
    version = go_build.required(KUBERNETES, "k8s.io/kubernetes")
    major, minor, _ = version.removeprefix("v").split(".", 2)
    base = "k8s.io/component-base/version"
    return [f"{base}.gitVersion={version}", f"{base}.gitMajor={major}", f"{base}.gitMinor={minor}"]


def kuberay_crds() -> Path:
    """Return the folder of KubeRay's CustomResourceDefinitions, as its release publishes them."""
    return go_build.module_folder(KUBERAY, KUBERAY_MODULE, "config/crd/bases")


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
