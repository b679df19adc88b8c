"""Whether this machine can run a cluster with nodes, and what is fetched for it from Debian's packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import debian

PACKAGES = {  # a program of it, or a file: package
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "iptables": "iptables",
    "ip": "iproute2",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "nsenter": "util-linux",
    "mount": "mount",
}
CGROUPS = Path("/sys/fs/cgroup")


class CannotRun(RuntimeError):
    """This machine cannot run nodes; the message says why and what to do."""


def check_machine() -> None:
    """Raise CannotRun unless nodes can run here, after fetching what is missing where apt-get can."""
    if sys.platform != "linux":
        raise CannotRun("nodes are made of Linux namespaces: run this on Linux, for instance in a virtual machine")
    if os.geteuid() != 0:
        raise CannotRun("nodes need root (namespaces, cgroups, network links): run it with sudo, or as root")
    if not cgroup_roots():
        raise CannotRun(f"no cgroups are mounted at {CGROUPS}: in a container, start it with --privileged")
    if not _may_unshare():
        raise CannotRun("this root may not make namespaces: in a container, start it with --privileged")
    if lacking := missing():
        _fetch(lacking)
    if lacking := missing():
        raise CannotRun(f"missing here: install the packages {' '.join(lacking)}")


def missing() -> list[str]:
    """The packages of which something is not there."""
    there = {name: shutil.which(name) is not None if "/" not in name else Path(name).exists() for name in PACKAGES}
    return sorted({PACKAGES[name] for name, found in there.items() if not found})


def cgroup_roots() -> list[Path]:
    """Every cgroup hierarchy: one in version 2, one for each controller in version 1."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return sorted(path for path in CGROUPS.glob("*/") if (path / "cgroup.procs").exists())


def _may_unshare() -> bool:
    flags = ["--mount", "--pid", "--fork", "--net", "--uts"]
    return subprocess.run(["unshare", *flags, "true"], capture_output=True, check=False).returncode == 0


def _fetch(packages: list[str]) -> None:
    if not debian.can_install():
        raise CannotRun(f"missing here: install {', '.join(packages)} (Debian's names) with your package manager")
    debian.install(packages, CannotRun)
