"""The process environment of a rank, set before torch and DeepSpeed read it."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

STDOUT, STDERR = 1, 2


def prepare(environ: MutableMapping[str, str], device: str, local_world_size: int, cpus: int) -> None:
    """Fill in what the user left open: DeepSpeed's accelerator, threads so that ranks do not fight for cores, no bars.

    The progress bars of transformers and huggingface_hub would be written by every rank, over our lines or into a log.
    """
    if device == "cpu":
        environ.setdefault("DS_ACCELERATOR", "cpu")  # without it DeepSpeed tries to import GPU back ends
    environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers follows it too
    environ.setdefault("OMP_NUM_THREADS", str(threads(local_world_size, cpus)))


def threads(local_world_size: int, cpus: int) -> int:
    """Return the compute threads of one rank: the node's cores divided among its ranks, at least one."""
    return max(1, cpus // local_world_size)


def loopback(environ: MutableMapping[str, str]) -> None:
    """Keep gloo on the loopback interface, so that a changing network or host name cannot break a one-machine run."""
    if sys.platform == "linux":
        environ.setdefault("GLOO_SOCKET_IFNAME", "lo")


def redirect_output(file: Path) -> None:
    """Append this process's stdout and stderr to `file`, also what C libraries write."""
    file.parent.mkdir(parents=True, exist_ok=True)
    redirect(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))


def redirect(descriptor: int) -> None:
    """Let stdout and stderr, also of C libraries, go to the open file `descriptor`, which is closed itself.

    From then on `print` and the loggers made later end no run because the disk is full: what does not fit is lost.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    for own in (STDOUT, STDERR):
        os.dup2(descriptor, own)
    os.close(descriptor)
    sys.stdout, sys.stderr = _lines(STDOUT), _lines(STDERR)


class _Unfailing(io.FileIO):
    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def _lines(descriptor: int) -> io.TextIOWrapper:
    raw = _Unfailing(descriptor, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", errors="backslashreplace", line_buffering=True)
