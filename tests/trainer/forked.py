"""Processes forked from a server that has imported what every rank imports, so that each starts in no time.

The imports (torch, DeepSpeed, transformers, peft and the trainer) are ten seconds of processor time and the same for
every rank. The server is that of `multiprocessing`: a process of its own without threads, which ends with the session.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

IMPORTS = "rank_imports"
AT_IMPORT = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
"""What libraries read from the environment while they are imported."""


class Forked:
    """A process that calls a function, with the part of `subprocess.Popen` that its starter needs."""

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id, and that of its process group."""
        assert self._process.pid is not None
        return self._process.pid

    def wait(self) -> int:
        """Its exit code once it has ended; the signal's number, negative, if one killed it."""
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same, or None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)


def fork(call: Callable[..., None], *arguments: Any, environment: dict[str, str], log: Path) -> Forked:
    """Call a function of an importable module in a forked process, with this environment and its output in `log`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", IMPORTS])
    process = context.Process(target=_call, args=(call, arguments, environment, str(log)))
    with pytest.MonkeyPatch.context() as patch:  # the first call starts the server, which finds modules by this
        for name, value in AT_IMPORT.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        process.start()
    return Forked(process)


def _call(call: Callable[..., None], arguments: tuple[Any, ...], environment: dict[str, str], log: str) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for standard in (1, 2):
        os.dup2(output, standard)
    os.close(output)
    call(*arguments)
