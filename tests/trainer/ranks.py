"""Run one function on N local ranks, each a process of its own, and collect what they return.

`run_ranks(2, "tests/trainer/model/ranks_zero3.py:load", {"path": "..."})` imports that file in two new processes, calls
`load(payload)` in both, and returns their JSON-able results in rank order. The processes are forked after the imports
that all ranks share, or, where memory or variables of the process's start matter, `fresh`. The environment is that of
`torchrun` (MASTER_ADDR, MASTER_PORT, RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE); the function itself starts the
process group, because how it does so is often what a test is about.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

from forked import AT_IMPORT, Forked, fork

REPOSITORY = Path(__file__).resolve().parents[2]
STDERR_TAIL = 6000  # characters of a rank's stderr shown when it fails
CONSEQUENCES = 2.0  # seconds in which the other ranks may fail too before all are killed
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


Process = Forked | subprocess.Popen[bytes]


class RankFailure(AssertionError):
    """A rank exited with an error or the time ran out; the message ends with that rank's stderr."""


def run_ranks(
    n: int, target: str, payload: dict[str, Any], timeout: float = 120, *, fresh: bool = False
) -> list[dict[str, Any]]:
    """Call `target` ("path/to/module.py:function", relative to the repository) with `payload` on `n` ranks.

    Each is forked, or, `fresh`, an interpreter that has imported nothing yet.

    Returns the functions' results in rank order. Raises RankFailure when a rank fails or when `timeout` seconds are
    over; all ranks are killed then, and a rank that hung shows the Python stack of its threads.
    """
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        port = free_port()
        processes = [_start(rank, n, port, target, payload, Path(folder), fresh) for rank in range(n)]
        with ThreadPoolExecutor(n) as pool:
            exits = [
                pool.submit(_expect_success, rank, process, Path(folder)) for rank, process in enumerate(processes)
            ]
            try:
                _wait_for_all(exits, Path(folder), processes, timeout)
            finally:
                _kill(processes)
        return [json.loads(_result_file(Path(folder), rank).read_text()) for rank in range(n)]


def free_port() -> int:
    """A TCP port on the loopback interface that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def place(rank: int, n: int, port: int) -> dict[str, str]:
    """What `torchrun` puts into the environment of a rank among `n` on this machine."""
    places = {"RANK": rank, "WORLD_SIZE": n, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": n, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in places.items()}}


def _start(rank: int, n: int, port: int, target: str, payload: dict[str, Any], folder: Path, fresh: bool) -> Process:
    environment = _environment(rank, n, port)
    arguments = (target, json.dumps(payload), str(_result_file(folder, rank)))
    if not fresh:
        return fork(_main, *arguments, environment=environment, log=_stderr_file(folder, rank))
    with _stderr_file(folder, rank).open("wb") as stderr:
        return subprocess.Popen(
            [sys.executable, __file__, *arguments],
            env=environment,
            cwd=REPOSITORY,
            stdout=stderr,
            stderr=stderr,
            start_new_session=True,
        )


def _environment(rank: int, n: int, port: int) -> dict[str, str]:
    paths = [str(REPOSITORY / "trainer"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | AT_IMPORT | place(rank, n, port) | {"PYTHONPATH": os.pathsep.join(paths)}


def _result_file(folder: Path, rank: int) -> Path:
    return folder / f"result-{rank}.json"


def _stderr_file(folder: Path, rank: int) -> Path:
    return folder / f"stderr-{rank}.txt"


def _stderr(folder: Path, rank: int) -> str:
    return _stderr_file(folder, rank).read_text(errors="replace")[-STDERR_TAIL:]


def _expect_success(rank: int, process: Process, folder: Path) -> None:
    code = process.wait()
    if code != 0:
        raise RankFailure(f"rank {rank} exited with {code}; its stderr ends with:\n{_stderr(folder, rank)}")


def _wait_for_all(exits: list[Future[None]], folder: Path, processes: list[Process], timeout: float) -> None:
    done, running = wait(exits, timeout, return_when=FIRST_EXCEPTION)
    if any(exit_.exception() for exit_ in done):
        done, _ = wait(exits, CONSEQUENCES)  # the first to exit may only have lost its peer: show all that fell
        raise RankFailure("\n".join(str(exit_.exception()) for exit_ in exits if exit_ in done and exit_.exception()))
    if running:
        hung = [rank for rank, exit_ in enumerate(exits) if exit_ in running]
        for rank in hung:
            processes[rank].send_signal(signal.SIGABRT)  # faulthandler prints every thread's stack
        wait(running, 5)
        stacks = "\n".join(f"--- rank {rank}:\n{_stderr(folder, rank)}" for rank in hung)
        raise RankFailure(f"ranks {hung} did not finish within {timeout:g} s\n{stacks}")


def _kill(processes: list[Process]) -> None:
    for process in processes:
        if process.poll() is None:
            with suppress(ProcessLookupError):  # it ended meanwhile
                os.killpg(process.pid, signal.SIGKILL)
            process.send_signal(signal.SIGKILL)  # if it has no group of its own yet
            process.wait()


def _load(target: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    path, _, name = target.rpartition(":")
    file = (REPOSITORY / path).resolve()
    sys.path[:0] = [str(file.parent), str(REPOSITORY / "tests" / "trainer"), str(REPOSITORY / "tests")]
    module_spec = importlib.util.spec_from_file_location(file.stem, file)
    if module_spec is None or module_spec.loader is None:
        raise ImportError(f"{file} is no Python module")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[file.stem] = module
    module_spec.loader.exec_module(module)
    function: Callable[[dict[str, Any]], dict[str, Any]] = getattr(module, name)
    return function


def _main(target: str, payload: str, result_file: str) -> None:
    faulthandler.enable()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # die with the test process, however it ends
    result = _load(target)(json.loads(payload))
    Path(result_file).write_text(json.dumps(result))
    _leave_process_group()


def _leave_process_group() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _main(*sys.argv[1:])
