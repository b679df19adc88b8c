"""One node, from outside: it can be started, killed as a whole, cut off from the network, and entered."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from child import Child
from cluster import node_files
from cluster.kernel import connect, ip, make_cgroups
from cluster.layout import Layout, node_name

BIRTH_SECONDS = 20.0
OWN_NAMESPACES = (
    *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child=SIGKILL"),
    *("--net", "--uts", "--mount-proc"),
)


class Node:
    """A process tree with containerd, kubelet and kube-proxy; `runc` is the program of that name."""

    def __init__(self, layout: Layout, number: int, runc: str) -> None:
        self.layout, self.number, self.name = layout, number, node_name(number)
        self.folder = layout.node(number)
        command = [*OWN_NAMESPACES, sys.executable, "-m", "cluster.node_main", str(layout.folder), str(number)]
        tools = str(Path(__file__).resolve().parents[1])
        self._child = Child(self.name, command, layout.folder, {"PYTHONPATH": tools})
        self._runc = runc

    def start(self) -> None:
        """Start it, anew after `kill` or for the first time; it joins the cluster a few seconds later."""
        self._write_files()
        make_cgroups(self.layout, self.number)
        self._child.start()
        connect(self.layout, self.number, self._first_process())

    def kill(self) -> None:
        """End everything that runs on it at once, as a power cut does."""
        first = self.first_process
        self._child.kill()
        deadline = time.monotonic() + BIRTH_SECONDS
        while first is not None and Path("/proc", str(first)).exists() and time.monotonic() < deadline:
            time.sleep(0.02)

    def cut(self) -> None:
        """Pull its cable: everything on it lives on and reaches nobody."""
        ip("link", "set", self.layout.link(self.number), "down")

    def heal(self) -> None:
        """Plug its cable in again."""
        ip("link", "set", self.layout.link(self.number), "up")

    def check(self) -> None:
        """Raise RuntimeError with its last words when it ended by itself."""
        self._child.check()

    @property
    def alive(self) -> bool:
        """Whether it was started and has not ended."""
        return self.first_process is not None

    @property
    def first_process(self) -> int | None:
        """Process id, on this machine, of its process 1; None while there is none."""
        outer = self._child.pid
        if outer is None:
            return None
        with suppress(OSError, ValueError, IndexError):
            return int(Path(f"/proc/{outer}/task/{outer}/children").read_text().split()[0])
        return None

    def run(self, *command: str) -> str:
        """Run a command on the node and return its output; CalledProcessError when it fails."""
        enter = ["nsenter", "--target", str(self._first_process()), "--mount", "--pid", "--net", "--uts"]
        return subprocess.run([*enter, *command], check=True, capture_output=True, text=True).stdout

    def _first_process(self) -> int:
        deadline = time.monotonic() + BIRTH_SECONDS
        while (found := self.first_process) is None:
            self._child.check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} has no process after {BIRTH_SECONDS:.0f} s, see {self._child.log}")
            time.sleep(0.01)
        return found

    def _write_files(self) -> None:
        for folder in ("lib/kubelet", "lib/containerd", "lib/cni", "log/pods", "log/containers", "cni"):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        layout, number = self.layout, self.number
        texts = {
            "containerd.toml": node_files.containerd(layout, number, self._runc),
            "cni/10-pods.conflist": node_files.network(layout, number),
            "kubelet.yaml": node_files.kubelet(layout, number),
            "kube-proxy.yaml": node_files.kube_proxy(layout, number),
        }
        for name, text in texts.items():
            (self.folder / name).write_text(text, encoding="utf-8")


def images_of(folder: Path) -> Sequence[Path]:
    """The image archives that every node imports when it starts."""
    return sorted((folder / "images").glob("*.tar"))
