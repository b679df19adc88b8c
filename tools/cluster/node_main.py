"""The first process of a node: makes its file system and network, starts what runs on a node, and keeps it running.

It runs in namespaces of its own and is killed, never stopped: the kernel then ends everything that it started.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.layout import Layout, load, node_name
from cluster.node import images_of

SECONDS = 60.0
AGAIN = 1.0
"""Seconds after which a service that ended is started again, as a service manager would."""


def main(arguments: Sequence[str]) -> None:
    """`node_main FOLDER NUMBER`; does not return."""
    layout, number = load(Path(arguments[0])), int(arguments[1])
    os.environ["PATH"] = f"{layout.programs}:{os.environ['PATH']}"
    make_file_system(layout.node(number))
    socket.sethostname(node_name(number))
    make_network(layout, number)
    keep_running(layout, number)


def make_file_system(folder: Path) -> None:
    """Every path on the node is the usual one, and its own."""
    for name in ("lib", "log"):
        run("mount", "--bind", folder / name, f"/var/{name}")
    run("mount", "-t", "tmpfs", "node", "/run")
    for path in ("/run/containerd", "/run/netns"):
        Path(path).mkdir()


def make_network(layout: Layout, number: int) -> None:
    """The bridge of the node's pods, joined with the cable to the other nodes; the node forwards to Services."""
    wait_until(lambda: "uplink" in [name for _, name in socket.if_nameindex()], "cable")
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "cni0", "address", layout.mac(number), "type", "bridge")
    run("ip", "address", "add", f"{layout.address(number)}/16", "dev", "cni0")
    run("ip", "link", "set", "uplink", "master", "cni0", "up")
    run("ip", "link", "set", "cni0", "up")
    run("ip", "route", "add", "default", "via", layout.host)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1", encoding="ascii")


def keep_running(layout: Layout, number: int) -> None:
    """Start containerd, fill its images, start the rest, and start again whatever ends. Never returns."""
    folder, services = layout.node(number), commands(layout, number)
    running = {start(folder, "containerd", services["containerd"]): "containerd"}
    wait_until(lambda: answers("ctr", "version"), "containerd")
    for archive in images_of(layout.folder):
        run("ctr", "--namespace", "k8s.io", "images", "import", archive)
    for name in ("kubelet", "kube-proxy"):
        running[start(folder, name, services[name])] = name
    while True:
        ended, _ = os.wait()  # orphans of containers too, whose parent the first process is
        if (name := running.pop(ended, "")) != "":
            time.sleep(AGAIN)
            running[start(folder, name, services[name])] = name


def commands(layout: Layout, number: int) -> dict[str, list[str | Path]]:
    """The services of a node by name."""
    folder, name = layout.node(number), node_name(number)
    return {
        "containerd": ["containerd", "--config", folder / "containerd.toml"],
        "kubelet": [
            "kubelet",
            f"--config={folder}/kubelet.yaml",
            f"--kubeconfig={layout.folder}/system:node:{name}.kubeconfig",
            f"--hostname-override={name}",
            f"--node-ip={layout.address(number)}",
            f"--node-labels=topology.kubernetes.io/zone={name}",
        ],
        "kube-proxy": ["kube-proxy", f"--config={folder}/kube-proxy.yaml"],
    }


def start(folder: Path, name: str, command: Sequence[str | Path]) -> int:
    """Start a service that prints to its log, and return its process id."""
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    return process.pid


def run(*command: str | Path) -> None:
    """Run a command; it ends the node when it fails."""
    subprocess.run(command, check=True)


def answers(*command: str) -> bool:
    """Whether a command succeeds."""
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def wait_until(true: Callable[[], bool], what: str) -> None:
    """Wait for a condition; RuntimeError when it takes too long."""
    deadline = time.monotonic() + SECONDS
    while not true():
        if time.monotonic() > deadline:
            raise RuntimeError(f"no {what} after {SECONDS:.0f} s")
        time.sleep(0.05)


if __name__ == "__main__":
    main(sys.argv[1:])
