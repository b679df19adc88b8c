"""Packages of Debian, for the tools here that need more of this machine than Python has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence


def install(packages: Sequence[str], failed: type[Exception]) -> None:
    """Install packages with apt-get, as root; raises `failed` with what it said when that does not work."""
    print(f"installing {' '.join(packages)}", file=sys.stderr, flush=True)
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages]):
        done = subprocess.run(["apt-get", *words], env=quiet, capture_output=True, text=True, check=False)
        if done.returncode:
            raise failed(f"apt-get {' '.join(words)} failed: {done.stderr.strip()}")


def can_install() -> bool:
    """Whether this machine has apt-get."""
    return shutil.which("apt-get") is not None
