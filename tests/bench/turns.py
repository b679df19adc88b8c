"""Contestants that train in turns, so that drift of the machine meets all of them alike.

Every contestant is started once, warms up, and is then stopped (SIGSTOP, all its ranks and threads) except while it is
its turn: nothing it does in the background is paid for by the others, or done for free while they train.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import ranks

TURNS = "BENCH_TURNS"
"""Environment variable of rank 0: the file descriptor of its end of the pipe."""

PATIENCE = 900.0
"""Seconds that a contestant may take to start and warm up, reference included, or for one turn."""


@dataclass(frozen=True)
class Turn:
    """What a contestant did: `steps` optimizer steps on `tokens` non-padding tokens in `seconds`, and a `note`.

    `cpu` is the processor time (s) of rank 0, all its threads: less disturbed by a busy machine than `seconds`.
    """

    steps: int
    tokens: int
    seconds: float
    cpu: float
    note: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Non-padding tokens per second."""
        return self.tokens / self.seconds


class Turns:
    """A contestant's side: tell it of every finished step, and it lets the contestant go on only during its turns."""

    def __init__(self, warm_up: int) -> None:
        self._pipe = Connection(int(os.environ[TURNS]))
        self._steps = self._left = warm_up
        self._tokens = 0
        self._cpu = 0.0  # of the whole process at the beginning of the turn
        self._note: dict[str, Any] = {}

    def note(self, **values: Any) -> None:
        """Say something with the next report: JSON-able values by name."""
        self._note |= values

    def step_finished(self, tokens: int) -> None:
        """Count one optimizer step on that many non-padding tokens; when the turn is over, wait for the next one."""
        self._left -= 1
        self._tokens += tokens
        if self._left:
            return
        if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_initialized():
            torch.cuda.synchronize()  # what the turn has asked of the GPU is its own
        self._pipe.send((self._steps, self._tokens, time.monotonic(), time.process_time() - self._cpu, self._note))
        self._steps = self._left = self._pipe.recv()
        self._tokens, self._cpu, self._note = 0, time.process_time(), {}


@dataclass
class Contestant:
    """The other side: one training program on one or more ranks, stopped except while `train` runs."""

    name: str
    pipe: Connection
    processes: list[subprocess.Popen[bytes]]
    log: Path
    warm_up: Turn

    def train(self, steps: int) -> Turn:
        """Let it train that many steps; a monotonic clock is the same one in all processes of a machine."""
        started = time.monotonic()
        self._signal(signal.SIGCONT)
        self.pipe.send(steps)
        turn = _receive(self.pipe, self.name, self.log, started)
        self._signal(signal.SIGSTOP)
        return turn

    def _signal(self, number: int) -> None:
        for process in self.processes:
            os.killpg(process.pid, number)


@contextmanager
def contestant(
    name: str, target: str, payload: Mapping[str, Any], folder: Path, *, n: int = 1, device: str = "cpu"
) -> Iterator[Contestant]:
    """Start `target` ("path/to/module.py:function") on `n` ranks, which share the cores, and warm it up.

    `device` is what DeepSpeed looks for, cpu or cuda. Its output goes to a file in `folder`, whose end is shown when it
    fails. It is killed in the end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}.log"
    ours, theirs = Pipe()
    started = time.monotonic()
    port = ranks.free_port()
    processes = [_start(rank, n, port, target, payload, theirs.fileno(), log, device) for rank in range(n)]
    theirs.close()
    try:
        warm_up = _receive(ours, name, log, started)
        found = Contestant(name, ours, processes, log, warm_up)
        found._signal(signal.SIGSTOP)
        yield found
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _start(
    rank: int, n: int, port: int, target: str, payload: Mapping[str, Any], pipe: int, log: Path, device: str
) -> subprocess.Popen[bytes]:
    path = [ranks.REPOSITORY / "trainer", ranks.REPOSITORY / "tests", ranks.REPOSITORY / "tests" / "trainer"]
    environment = os.environ | {
        **ranks.place(rank, n, port),
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // n)),
        "DS_ACCELERATOR": device,
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "HF_DATASETS_CACHE": str(log.parent / "datasets"),
        TURNS: str(pipe),
    }
    command = [sys.executable, ranks.__file__, target, json.dumps(payload), str(log.with_suffix(f".{rank}.json"))]
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            env=environment,
            cwd=ranks.REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[pipe] if rank == 0 else [],
            start_new_session=True,
        )


def _receive(pipe: Connection, name: str, log: Path, started: float) -> Turn:
    try:
        if not pipe.poll(PATIENCE):
            raise TimeoutError(f"{name} did not answer within {PATIENCE:g} s")
        steps, tokens, finished, cpu, note = pipe.recv()
    except (EOFError, TimeoutError, ConnectionResetError) as error:
        raise AssertionError(f"{name} failed: {error}; its output ends with:\n{_tail(log)}") from error
    return Turn(steps, tokens, finished - started, cpu, note)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-ranks.STDERR_TAIL :]
