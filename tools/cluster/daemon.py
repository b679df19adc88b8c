"""The process that a cluster lives in, beyond the command that started it; and how another command ends it."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from cluster import platform
from cluster.cluster import Cluster, build, clean
from cluster.layout import Layout, load
from operator_image import operator_image

PID, READY = "pid", "ready"
TICK = 0.5
END_SECONDS = 30.0


def log_of(folder: Path) -> Path:
    """What the process prints."""
    return folder / "cluster.log"


def serve(layout: Layout, kuberay: bool) -> None:
    """Run a cluster until this process ends; nodes that were killed on purpose start again when asked to."""
    build()
    cluster = Cluster(layout, [platform.TRAINER_IMAGE], [operator_image()])
    server = platform.s3_server(layout)
    try:
        cluster.start()
        server.start()
        platform.fill(layout, server)
        platform.write_files(layout, server, version("ray"))
        if kuberay:
            cluster.install_kuberay()
        (layout.folder / READY).touch()
        while True:
            time.sleep(TICK)
            _obey(cluster)
    finally:
        server.kill()
        cluster.stop()


def _obey(cluster: Cluster) -> None:
    """Let each node be dead or alive as the file `down` in its folder says."""
    for number, node in cluster.nodes.items():
        down = (cluster.layout.node(number) / "down").exists()
        if down and node.alive:
            node.kill()
        elif not down and not node.alive:
            node.kill()  # what is left of one that died by itself
            node.start()


def end(folder: Path) -> bool:
    """End the cluster of a folder, also one that crashed, and remove what it left; False when there is none."""
    if not (folder / "layout.json").exists() and not (folder / PID).exists():
        return False
    with suppress(FileNotFoundError, ProcessLookupError, ValueError):
        _kill(int((folder / PID).read_text(encoding="ascii")), folder)
    with suppress(FileNotFoundError):
        clean(load(folder))
    for name in (PID, READY, "layout.json"):
        (folder / name).unlink(missing_ok=True)
    return True


def _kill(process: int, folder: Path) -> None:
    """End the process if it still is the one that serves this folder; its children end with it."""
    if str(folder).encode() not in Path("/proc", str(process), "cmdline").read_bytes():
        return
    os.kill(process, signal.SIGTERM)
    deadline = time.monotonic() + END_SECONDS
    while Path("/proc", str(process)).exists():
        if time.monotonic() > deadline:
            os.kill(process, signal.SIGKILL)
        time.sleep(0.1)
