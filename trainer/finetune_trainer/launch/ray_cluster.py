"""A private Ray on this machine, or a connection to a cluster that runs already; quiet either way."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from finetune_trainer.launch.machine import Machine

OBJECT_STORE = 80 * 1024 * 1024
"""Bytes of shared memory for Ray's object store, its minimum being 75 MB: only small objects pass through Ray here."""

LONGEST_TEMP_DIR = 32
"""Characters: Ray puts sockets 64 characters deeper, and a Unix socket's path may have 107."""


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
