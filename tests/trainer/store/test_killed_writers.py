"""SIGKILL at random moments: what is visible is whole, what was acknowledged is there, and the run goes on."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from finetune_trainer.store import ObjectStore, RunLog, crc64nvme
from finetune_trainer.store.atomic import create_file
from finetune_trainer.store.objects import TEMPORARY_PREFIX
from small_run import ME

KILLS = 24
LONGEST_SECONDS = 0.06  # a life of a writer behind its first acknowledged object: several objects long

# One process that imports once and forks a writer per line; the writer says the name of each acknowledged object.
NURSERY = """
import os, random, sys
from finetune_trainer.store import Identity, RunLog, crc64nvme, open_store

def write_objects(store, life):
    rng, number = random.Random(life), 0
    noise = memoryview(os.urandom(2**24))
    while True:
        data = noise[rng.randrange(1000):rng.choice([1000, 2**24])]
        key = f"life{life:02d}/{number:04d}-{crc64nvme(data):016x}"
        store.create(key, data)
        yield key
        number += 1

def write_log(store, life):
    log = RunLog(store, "team.job")
    writer = log.claim(Identity(hash="0" * 64))
    writer.sweep()
    parent = log.latest_good().entry
    while True:
        step = 0 if parent is None else parent.step + 1
        folder = writer.new_checkpoint(step)
        refs = [writer.write(folder, f"rank{rank}", os.urandom(200_000)) for rank in range(3)]
        parent = writer.commit(step, None if parent is None else parent.seq, refs, {})
        yield str(step)
        writer.retire(parent, keep_last=2)

write = {"objects": write_objects, "log": write_log}[sys.argv[2]]
store = open_store(sys.argv[1])
list(store.list("none/"))
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        for name in write(store, int(line)):
            os.write(1, f"{name}\\n".encode())
    os.write(1, f"pid {child}\\n".encode())
    os.waitpid(child, 0)
    os.write(1, b"dead\\n")
"""


@contextmanager
def nursery(uri: str, what: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", NURSERY, uri, what]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def live_and_die(process: subprocess.Popen[bytes], life: int, seconds: float) -> list[str]:
    """Start a writer, let it acknowledge something, kill it after `seconds` more; what it acknowledged."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{life}\n".encode())
    lines = [process.stdout.readline().decode().strip() for _ in range(2)]
    (pid,) = [int(line.removeprefix("pid ")) for line in lines if line.startswith("pid ")]
    select.select([], [], [], seconds)  # the moment of the kill is what is random here
    os.kill(pid, signal.SIGKILL)
    while lines[-1] != "dead":
        lines.append(process.stdout.readline().decode().strip())
        assert lines[-1], "the nursery ended"
    return [line for line in lines if line != "dead" and not line.startswith("pid ")]


def hidden(root: Path) -> list[str]:
    return [str(path) for path in root.rglob(f"{TEMPORARY_PREFIX}*")]


@pytest.mark.timeout(300)
def test_a_killed_writer_leaves_whole_objects_and_every_acknowledged_one(
    store: ObjectStore, store_uri: str, tmp_path: Path
) -> None:
    rng = random.Random(1)
    with nursery(store_uri, "objects") as process:
        for life in range(KILLS):
            acknowledged = live_and_die(process, life, rng.uniform(0, LONGEST_SECONDS))
            visible = [info.key for info in store.list(f"life{life:02d}/")]
            assert set(acknowledged) <= set(visible)
            assert len(visible) <= len(acknowledged) + 1
            for key in visible:
                assert key.endswith(f"{crc64nvme(store.get(key)):016x}"), f"{key} is torn"
            store.delete(visible)
    assert hidden(tmp_path) == []


@pytest.mark.timeout(300)
def test_a_killed_run_goes_on_from_its_last_acknowledged_commit(
    store: ObjectStore, store_uri: str, tmp_path: Path
) -> None:
    rng = random.Random(2)
    reached = -1
    with nursery(store_uri, "log") as process:
        for life in range(KILLS):
            steps = [int(line) for line in live_and_die(process, life, rng.uniform(0, LONGEST_SECONDS))]
            assert steps[0] in (reached + 1, reached + 2)  # one commit may be stored and not acknowledged
            assert steps == list(range(steps[0], steps[0] + len(steps)))
            reached = steps[-1]
            log = RunLog(store, "team.job")
            found = log.latest_good()
            assert found.damaged == ()
            assert found.entry is not None
            assert found.entry.step in (reached, reached + 1)
            assert all(log.verify(entry) == [] for entry in log.checkpoints())
    log = RunLog(store, "team.job")
    assert len([entry for entry in log.entries() if entry.kind == "claim"]) == KILLS
    log.claim(ME).sweep()
    named = {ref.key for entry in log.checkpoints() for ref in entry.objects}
    assert {info.key for info in store.list("team.job/data/")} == named
    assert hidden(tmp_path) == []


def test_without_unnamed_files_a_create_is_as_exclusive_and_leaves_nothing(tmp_path: Path) -> None:
    """The way that file systems without O_TMPFILE take (NFS, macOS)."""
    path = tmp_path / "a" / "b"
    create_file(path, memoryview(b"first"), unnamed=False)
    with pytest.raises(FileExistsError):
        create_file(path, memoryview(b"second"), unnamed=False)
    assert path.read_bytes() == b"first"
    assert [one.name for one in path.parent.iterdir()] == ["b"]
