"""Ray's environment variables and this host's address on a cluster; imports no Ray, so that it can come before Ray."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping
from contextlib import closing
from importlib.metadata import version
from urllib.parse import urlsplit

from finetune_trainer.errors import Problem, SpecError

QUIET = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # keeps a warning about a future default off the terminal
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths in user code mean the same under every launcher
    "RAY_DEDUP_LOGS": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # print goes to the rank's own log file
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}

LOCAL = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a single machine is not drained, and the watcher is a process more
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # Ray's 2 s delay the end of each run and each restart
    "RAY_TRAIN_METRICS_ENABLED": "0",  # nothing scrapes them here
    "RAY_worker_niceness": "0",  # Ray's 15 makes ranks yield to everything else; torchrun's ranks do not either
}


RAY_VERSION = "FINETUNE_RAY_VERSION"
"""Environment variable by which the operator says which Ray the FineTuneRuntime promises."""


def check_version(environ: Mapping[str, str]) -> None:
    """Raise SpecError when the runtime promises another minor version of Ray than is installed here."""
    promised = environ.get(RAY_VERSION)
    if promised and _minor(promised) != _minor(found := version("ray")):  # torchrun needs no Ray to be there
        message = f"its image has Ray {found}: write that version there, or take an image with the other"
        raise SpecError([Problem("spec.rayVersion of the FineTuneRuntime", promised, message)])


def _minor(release: str) -> list[str]:
    return release.split(".")[:2]


def configure(environ: MutableMapping[str, str], local: bool) -> None:
    """Fill in the variables of Ray that the user left open; before `ray.train` is imported."""
    for name, value in {**QUIET, **(LOCAL if local else {})}.items():
        environ.setdefault(name, value)


def reachable_address(address: str | None) -> str:
    """Return the address of this host as the cluster at `address` sees it; no packet is sent to find it."""
    if address is None:
        return "127.0.0.1"
    target = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    host = urlsplit(target if "://" in target else f"//{target}").hostname or "192.0.2.1"  # RFC 5737: the default route
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect((host, 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])
