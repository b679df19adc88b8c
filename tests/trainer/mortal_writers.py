"""Writers to be killed: one process that imports once and forks a writer for each life it is told of.

As a command it writes to the store whose address is its argument. Each line of stdin is a `Life` as JSON; on stdout it
answers `pid <n>`, the name of each object or step as soon as it is acknowledged, and `dead <exit code>`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from finetune_trainer.store import Identity, ObjectStore, RunLog, atomic, crc64nvme, open_store


@dataclass(frozen=True)
class Life:
    """One writer: `run` is the run that it saves, or empty where it writes objects below `life<number>/`.

    `size`: bytes of each of a checkpoint's three objects. `written`: it is killed when it has written so many bytes
    to files. `unnamed`: whether its file system has files without a name.
    """

    number: int
    run: str = ""
    size: int = 200_000
    written: int | None = None
    unnamed: bool = True


def write_objects(store: ObjectStore, life: Life) -> Iterator[str]:
    rng, number = random.Random(life.number), 0
    noise = memoryview(os.urandom(2**24))
    while True:
        data = noise[rng.randrange(1000) : rng.choice([1000, 2**24])]
        key = f"life{life.number:04d}/{number:04d}-{crc64nvme(data):016x}"
        store.create(key, data)
        yield key
        number += 1


def write_log(store: ObjectStore, life: Life) -> Iterator[str]:
    log = RunLog(store, life.run)
    writer = log.claim(Identity(hash="0" * 64))
    writer.sweep()
    parent = log.latest_good().entry
    while True:
        step = 0 if parent is None else parent.step + 1
        folder = writer.new_checkpoint(step)
        refs = [writer.write(folder, f"rank{rank}", os.urandom(life.size)) for rank in range(3)]
        parent = writer.commit(step, None if parent is None else parent.seq, refs, {})
        yield str(step)
        writer.retire(parent, keep_last=2)


def live(store: ObjectStore, life: Life) -> None:
    if not life.unnamed:
        atomic.create_file.__kwdefaults__ = {"unnamed": False}
    if life.written is not None:
        die_behind(life.written)
    for name in (write_log if life.run else write_objects)(store, life):
        say(name)


def say(line: str) -> None:
    """Write a line at once: print makes two writes of it under PYTHONUNBUFFERED, and a kill may come between them."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def die_behind(size: int) -> None:
    """Let this process kill itself with SIGKILL when it has written `size` bytes to files, wherever that is."""
    real, left = os.write, size

    def write(handle: int, data: memoryview) -> int:
        nonlocal left
        written = real(handle, data[:left])
        left -= written
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return written

    os.write = write  # type: ignore[assignment]  # what finetune_trainer.store.atomic calls


@contextmanager
def nursery(uri: str, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """The process that makes writers to the store at `uri`, with `env` over this process's environment."""
    environment = os.environ | (env or {})
    command = [sys.executable, __file__, uri]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def begin(process: subprocess.Popen[str], life: Life) -> None:
    """Let a writer be born; what it says follows."""
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(life)) + "\n")
    process.stdin.flush()


@dataclass
class Heard:
    """What was heard of a life so far."""

    pid: int = 0
    acknowledged: list[str] = field(default_factory=list)

    def hear(self, process: subprocess.Popen[str]) -> bool:
        """Wait for the next line; False if it is that the writer was killed."""
        assert process.stdout is not None
        match process.stdout.readline().split():
            case ["pid", pid]:
                self.pid = int(pid)
            case ["dead", code]:
                assert int(code) == -signal.SIGKILL
                return False
            case [name]:
                self.acknowledged.append(name)
            case words:
                raise AssertionError(f"the nursery ended or said {words}")
        return True


def _main(uri: str) -> None:
    store = open_store(uri)
    getattr(store, "client", None)  # loads once what every writer would load for itself
    for line in sys.stdin:
        life: dict[str, Any] = json.loads(line)
        child = os.fork()
        if child == 0:
            live(store, Life(**life))
        say(f"pid {child}")
        _, status = os.waitpid(child, 0)
        say(f"dead {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    _main(sys.argv[1])
