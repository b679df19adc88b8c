"""A cluster with nodes: brings it up step by step, and takes it down whatever state it is in."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from child import Child
from cluster import images, kernel, node_files
from cluster.kuberay import install_kuberay
from cluster.layout import Layout, node_name
from cluster.machine import check_machine
from cluster.node import Node
from cluster_identity import USERS, write_private
from cluster_programs import pause, program
from control_plane import ControlPlane
from control_plane_commands import Options

ROOT = Path(__file__).resolve().parents[2]
NODE_PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr", "kubelet", "kube-proxy")
PROGRAMS = (*NODE_PROGRAMS, "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "coredns")
USERS_PROGRAMS = ("kubectl", "helm")
MACHINE_IMAGE = "localhost/machine:1"
"""Image of pods with the RuntimeClass `machine`, which see this machine's programs and Python environment."""

READY_SECONDS = 90.0
DNS_RIGHTS = [
    {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
]


def build() -> None:
    """Build every program of a cluster, once on this machine: minutes on a new one."""
    for name in (*PROGRAMS, *USERS_PROGRAMS, "kuberay-operator"):
        program(name)
    pause()


class Cluster:
    """Control plane, DNS and nodes. Start it from the main thread: it ends with the thread that started it.

    `trainer_images` are names by which FineTuneRuntimes may call the image that sees this machine's Python
    environment; `archives` are other images (docker or OCI archives) that all nodes shall have.
    """

    def __init__(
        self,
        layout: Layout,
        trainer_images: Sequence[str] = (),
        archives: Sequence[Path] = (),
        say: Callable[[str], None] = print,
    ) -> None:
        self.layout, self._say, self._begun = layout, say, time.monotonic()
        self._names, self._archives = [MACHINE_IMAGE, *trainer_images], archives
        layout.folder.mkdir(parents=True, exist_ok=True)
        self.plane = ControlPlane(layout.folder, options=_options(layout))
        runc = shutil.which("runc") or "runc"
        self.nodes = {number: Node(layout, number, runc) for number in layout.numbers}
        self.scheduler = Child("kube-scheduler", _scheduler(self.plane), layout.folder)
        self.dns = Child("coredns", [program("coredns"), "-conf", "Corefile"], layout.folder)

    def start(self) -> None:
        """Bring everything up and return when all nodes are ready; RuntimeError or CannotRun when that fails."""
        check_machine()
        self.layout.save()
        kernel.keep_settings(self.layout)
        self._write_files()
        kernel.make_bridge(self.layout)
        self.plane.start()
        self._tell("the API server is ready")
        self.plane.controllers.start()
        self.scheduler.start()
        self._grant()
        self.dns.start()
        for node in self.nodes.values():
            node.start()
        for number in self.nodes:
            self.wait_for_node(number)
        self.plane.wait_for_service_account("default")
        self._tell(f"{len(self.nodes)} nodes are ready")

    def install_kuberay(self) -> None:
        """Install KubeRay as its release does, and return when its operator is available."""
        install_kuberay(self.plane, self.layout.folder / "kuberay", MACHINE_IMAGE)
        self._tell("KubeRay is available")

    def stop(self) -> None:
        """End everything and remove what it left in the kernel; logs stay."""
        for node in self.nodes.values():
            node.kill()
        self.dns.kill()
        self.scheduler.kill()
        self.plane.stop()
        clean(self.layout)

    def check(self) -> None:
        """Raise RuntimeError with the last words of whatever ended by itself."""
        for child in (self.plane.etcd, self.plane.api_server, self.plane.controllers, self.scheduler, self.dns):
            child.check()

    def wait_for_node(self, number: int) -> None:
        """Return when a node is ready."""
        deadline = time.monotonic() + READY_SECONDS
        path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
        while self.plane.kubectl("get", "node", node_name(number), "--ignore-not-found", "-o", path) != "True":
            self.check()
            self.nodes[number].check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"{node_name(number)} is not ready, see {self.layout.node(number)}/kubelet.log")
            time.sleep(0.2)

    def _write_files(self) -> None:
        layout, folder = self.layout, self.layout.folder
        shutil.rmtree(layout.programs, ignore_errors=True)
        layout.programs.mkdir()
        for name in (*NODE_PROGRAMS, *USERS_PROGRAMS):
            (layout.programs / name).symlink_to(program(name))
        (folder / "Corefile").write_text(node_files.corefile(layout), encoding="utf-8")
        certificate, key = self.plane.authority.issue("kube-apiserver-kubelet-client", [], ["kube-apiserver"])
        write_private(folder / "kubelet-client.crt", certificate)
        write_private(folder / "kubelet-client.key", key)
        (folder / "images").mkdir(exist_ok=True)
        images.write_image(folder / "images" / "machine.tar", pause(), [node_files.PAUSE, *self._names])
        for archive in self._archives:  # its own, since nodes import it each time they start
            _copy(archive, folder / "images" / archive.name)
        binaries = program("kuberay-operator").parent
        binds = {**images.python_binds(ROOT, folder), binaries: binaries}
        images.write_specs(folder, program("ctr"), binds)

    def _grant(self) -> None:
        """What the parts of the cluster may do, as far as Kubernetes has no roles for them, and the RuntimeClass."""
        rbac = "rbac.authorization.k8s.io"
        role = {"apiVersion": f"{rbac}/v1", "metadata": {"name": "coredns"}}
        objects: list[dict[str, Any]] = [
            role | {"kind": "ClusterRole", "rules": DNS_RIGHTS},
            role
            | {
                "kind": "ClusterRoleBinding",
                "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "coredns"},
                "subjects": [{"apiGroup": rbac, "kind": "User", "name": "coredns"}],
            },
            {
                "apiVersion": "node.k8s.io/v1",
                "kind": "RuntimeClass",
                "metadata": {"name": node_files.MACHINE_RUNTIME},
                "handler": node_files.MACHINE_RUNTIME,
            },
        ]
        manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self.plane.kubectl("apply", "--server-side", "-f", "-", input=manifest)

    def _tell(self, what: str) -> None:
        self._say(f"{time.monotonic() - self._begun:6.1f} s  {what}")


def clean(layout: Layout) -> None:
    """Remove what a cluster whose processes have ended left: links, cgroups, kernel settings, the nodes' files.

    Raises RuntimeError when something does not go.
    """
    left = kernel.restore(layout)
    for number in layout.numbers:
        _remove(layout.node(number) / "lib")
    _remove(layout.folder / "etcd")
    if left:
        raise RuntimeError(f"could not remove {', '.join(left)}: something still runs in it")


def _copy(source: Path, target: Path) -> None:
    """Copy a large file that nobody changes, by name only where that can be."""
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def _remove(folder: Path) -> None:
    if folder.exists():
        subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=True)


def _options(layout: Layout) -> Options:
    nodes = {f"system:node:{node_name(number)}": ["system:nodes"] for number in layout.numbers}
    parts: dict[str, list[str]] = {"system:kube-scheduler": [], "system:kube-proxy": [], "coredns": []}
    return Options(
        address=layout.host,
        services=layout.services,
        users={**USERS, **nodes, **parts},
        api_flags=(
            "--authorization-mode=Node",  # besides RBAC: flags that are lists add up
            "--enable-admission-plugins=NodeRestriction",
            "--endpoint-reconciler-type=lease",
            "--enable-aggregator-routing",
            "--kubelet-preferred-address-types=InternalIP",
            "--kubelet-client-certificate=kubelet-client.crt",
            "--kubelet-client-key=kubelet-client.key",
            "--default-not-ready-toleration-seconds=10",
            "--default-unreachable-toleration-seconds=10",
        ),
        controllers=("*",),
        controller_flags=("--node-monitor-period=1s", "--node-monitor-grace-period=8s"),
    )


def _scheduler(plane: ControlPlane) -> list[str | Path]:
    flags = ["--secure-port=0", "--leader-elect=false"]
    return [program("kube-scheduler"), f"--kubeconfig={plane.kubeconfig('system:kube-scheduler')}", *flags]
