"""What a cluster changes in this machine's kernel, and puts back: cgroups, links, settings."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from cluster.layout import Layout, node_name
from cluster.machine import cgroup_roots

SETTINGS = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops")
"""Kernel settings of the whole machine that a kubelet changes."""

GONE_SECONDS = 10.0
"""A killed process leaves its cgroup a moment later."""


def ip(*words: str) -> None:
    """Run `ip`; CalledProcessError with its words when it fails."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def keep_settings(layout: Layout) -> None:
    """Note the kernel's settings as they are."""
    found = {name: Path("/proc/sys", name).read_text(encoding="ascii").strip() for name in SETTINGS}
    layout.sysctls.write_text(json.dumps(found), encoding="utf-8")


def make_bridge(layout: Layout) -> None:
    """The link that joins this machine and all nodes; nothing is forwarded over it, so no pod leaves the machine."""
    ip("link", "add", layout.name, "address", layout.mac(0), "type", "bridge")
    for address in (f"{layout.host}/16", f"{layout.dns}/32"):
        ip("address", "add", address, "dev", layout.name)
    ip("link", "set", layout.name, "up")


def connect(layout: Layout, number: int, process: int) -> None:
    """Lay the cable from this machine's bridge into the network of a node's first process."""
    link = layout.link(number)
    if Path("/sys/class/net", link).exists():  # of a node that was killed a moment ago
        ip("link", "delete", link)
    ip("link", "add", link, "type", "veth", "peer", "name", "uplink", "netns", str(process))
    ip("link", "set", link, "master", layout.name, "up")


def make_cgroups(layout: Layout, number: int) -> None:
    """A cgroup for a node in each hierarchy: two kubelets in one would kill each other's pods as orphans."""
    for root in cgroup_roots():
        parent = root
        for folder in (root / layout.name, root / layout.name / node_name(number)):
            folder.mkdir(exist_ok=True)
            _let_in(folder, parent)
            parent = folder


def _let_in(folder: Path, parent: Path) -> None:
    for name in ("cpuset.cpus", "cpuset.mems"):  # version 1: a new cpuset is empty and takes no process
        file = folder / name
        if file.exists() and (parent / "cgroup.controllers").exists() is False and not file.read_text().strip():
            file.write_text((parent / name).read_text())
    if (parent / "cgroup.subtree_control").exists():  # version 2
        for controller in (parent / "cgroup.controllers").read_text().split():
            with suppress(OSError):
                (parent / "cgroup.subtree_control").write_text(f"+{controller}")


def restore(layout: Layout) -> list[str]:
    """Remove links and cgroups and put the settings back; returns what could not be removed."""
    for link in [*(layout.link(number) for number in layout.numbers), layout.name]:
        if Path("/sys/class/net", link).exists():
            ip("link", "delete", link)
    if layout.sysctls.exists():
        for name, value in json.loads(layout.sysctls.read_text(encoding="utf-8")).items():
            Path("/proc/sys", name).write_text(value, encoding="ascii")
    return [str(root / layout.name) for root in cgroup_roots() if not _removed(root / layout.name)]


def _removed(folder: Path) -> bool:
    deadline = time.monotonic() + GONE_SECONDS
    while folder.exists():
        for path in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
            with suppress(OSError):
                path.rmdir()
        with suppress(OSError):
            folder.rmdir()
            continue
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
