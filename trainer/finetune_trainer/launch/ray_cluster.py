"""A private Ray on this machine, or a connection to a cluster that runs already; quiet either way."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import Iterator, MutableMapping
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import ray

from finetune_trainer.launch.machine import Machine

OBJECT_STORE = 80 * 1024 * 1024
"""Bytes of shared memory for Ray's object store, its minimum being 75 MB: only small objects pass through Ray here."""

LONGEST_TEMP_DIR = 32
"""Characters: Ray puts sockets 64 characters deeper, and a Unix socket's path may have 107."""

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
}


def configure(environ: MutableMapping[str, str], local: bool) -> None:
    """Fill in the variables of Ray that the user left open; before `ray.train` is imported."""
    for name, value in {**QUIET, **(LOCAL if local else {})}.items():
        environ.setdefault(name, value)


@contextmanager
def cluster(address: str | None, machine: Machine) -> Iterator[None]:
    """Start Ray here (address None) or connect, and end what was started; a Ray that is up in this process is used.

    Ray's own processes end with the thread that started them (PR_SET_PDEATHSIG), so that thread has to stay inside.
    They inherit this process's environment, and with it AWS credentials and proxies; no runtime_env is made.
    """
    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    if address is None:
        ray.init(
            address="local",
            num_cpus=machine.cpus,
            num_gpus=machine.gpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=str(temp_dir()),
            _node_ip_address="127.0.0.1",  # survives a change of network, and listens to this machine only
        )
    else:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def temp_dir() -> Path:
    """Return a folder for Ray's sessions that belongs to this user; /tmp/ray may be somebody else's."""
    base = Path(tempfile.gettempdir())
    name = f"ray-{os.getuid()}"
    return base / name if len(str(base / name)) <= LONGEST_TEMP_DIR else Path("/tmp") / name


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
