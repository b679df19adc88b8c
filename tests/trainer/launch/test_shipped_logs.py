"""What processes write reaches the store beside the checkpoints, whatever happens to them, the store or the disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from finetune_trainer.launch.log_files import CONTAINER_LOG, PIECE, POLL, LogFile
from finetune_trainer.launch.shipper import EVERY
from finetune_trainer.launch.shipping import locked_file
from finetune_trainer.spec import logs_uri, parse_job
from finetune_trainer.store import open_store
from finetune_trainer.store.streams import Stream, pieces_of, read_pieces
from launch_job import manifest
from s3_bucket import Bucket
from s3_server import create_bucket, serving

PROMISED = 30.0
"""Seconds after which what was written is in the store (docs/running.md)."""

PATIENCE = 60.0

WRITER = """
import os, signal, sys
from pathlib import Path
from finetune_trainer.launch.shipping import ship_output
from finetune_trainer.spec import parse_job

ship_output(parse_job(sys.argv[1]), 2, sys.argv[2], Path(sys.argv[3]))
exec(sys.argv[4])
"""


class Node:
    """A node on which processes of one run write, in its second attempt."""

    def __init__(self, checkpoints: str, folder: Path, env: dict[str, str]) -> None:
        self.folder = folder
        self.job = parse_job(json.dumps(manifest(checkpoint={"uri": checkpoints, "everySteps": 1})))
        self.env = os.environ | env
        self.store = open_store(logs_uri(self.job))

    def start(self, code: str, source: str = "rank-0") -> subprocess.Popen[bytes]:
        """A process whose output is shipped, which runs `code`."""
        command = [sys.executable, "-c", WRITER, self.job.model_dump_json(), source, str(self.folder), code]
        return subprocess.Popen(
            command, env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def stored(self) -> dict[str, list[bytes]]:
        """What is stored, by source, in order."""
        found: dict[str, list[bytes]] = {}
        for stream, pieces in pieces_of(self.store, "2/").items():
            found.setdefault(stream.source, []).append(b"".join(read_pieces(self.store, pieces)))
        return found

    def files(self) -> list[Path]:
        """What is not wholly stored yet."""
        return list(self.folder.glob("logs/*/*.log"))

    def shippers(self) -> list[psutil.Process]:
        """The processes that ship from this node."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            if str(self.folder / "logs") in (process.info["cmdline"] or []):
                found.append(process)
        return found


def until(true: Callable[[], bool]) -> None:
    """Wait until something is true."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        threading.Event().wait(0.05)  # between two looks


@pytest.fixture
def node(bucket: Bucket, tmp_path: Path) -> Iterator[Node]:
    """A node whose checkpoints go to a bucket of a real S3 server."""
    node = Node(f"{bucket.uri}/ckpt", tmp_path, bucket.env)
    yield node
    for process in node.shippers():
        process.kill()


def test_all_that_a_process_writes_is_stored_and_goes_where_it_went_before(node: Node) -> None:
    code = "print('of Python'); os.write(1, b'of a C library\\n'); print('an error', file=sys.stderr)"
    out, _ = node.start(code).communicate()
    assert out == b"of Python\nof a C library\nan error\n"
    until(lambda: not node.files())
    assert node.stored() == {"rank-0": [out]}
    until(lambda: not node.shippers())


def test_the_log_of_the_container_gets_whole_lines_and_whose_they_are(node: Node) -> None:
    log = node.folder / "container.log"
    log.write_bytes(b"of Ray\n")
    node.env |= {CONTAINER_LOG: str(log)}
    node.start("print('to be continued, ', end=''); print('continued'); print('the end', end='')").communicate()
    assert log.read_bytes() == b"of Ray\n[rank-0] to be continued, continued\n[rank-0] the end\n"
    node.start("print('of the launcher')", "launcher").communicate()
    assert log.read_bytes().endswith(b"\nof the launcher\n")


def test_the_last_words_of_a_killed_process_are_stored(node: Node) -> None:
    process = node.start("print('a last word'); os.kill(os.getpid(), signal.SIGKILL)")
    assert process.wait() == -signal.SIGKILL
    until(lambda: not node.files())
    assert node.stored() == {"rank-0": [b"a last word\n"]}


def test_a_rank_that_is_started_again_in_the_same_attempt_adds_to_what_is_there(node: Node) -> None:
    for word in ("first", "second"):
        node.start(f"print('{word}')").wait()
    until(lambda: not node.files())
    assert sorted(node.stored()["rank-0"]) == [b"first\n", b"second\n"]


def test_a_store_that_is_down_stops_nobody_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path / "data") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        create_bucket(server, "runs")
        node = Node("s3://runs/ckpt", tmp_path, {})
        server.kill()
        process = node.start("print('said while it is down'); sys.stdin.read(1)")
        assert process.stdout is not None and process.stderr is not None and process.stdin is not None
        assert process.stdout.readline() == b"said while it is down\n"
        process.stdin.write(b".")
        process.stdin.close()
        assert process.wait() == 0
        assert b"kept here until it can be stored" in process.stderr.readline()
        server.start()
        until(lambda: not node.files())
        assert node.stored() == {"rank-0": [b"said while it is down\n"]}


def test_what_a_process_left_that_was_killed_with_its_shipper_is_stored_by_the_next_one(node: Node) -> None:
    """As when the kernel ends a container as a whole for memory, and Kubernetes starts it again."""
    process = node.start("print('before the end'); sys.stdin.read(1)")
    assert process.stdout is not None
    assert process.stdout.readline() == b"before the end\n"
    for shipper in node.shippers():
        shipper.kill()
        shipper.wait()
    process.kill()
    process.wait()
    assert node.files() != []
    node.start("print('after it')", "rank-1").wait()
    until(lambda: not node.files())
    assert node.stored() == {"rank-0": [b"before the end\n"], "rank-1": [b"after it\n"]}


def test_new_output_is_stored_in_less_than_30_seconds_and_not_at_every_look(node: Node) -> None:
    now = 1000.0
    path = node.folder / "logs" / Stream.new(2, "rank-0", datetime.now(UTC)).file
    descriptor = locked_file(path)
    file = LogFile(path, stream_of(path), 0, EVERY, lambda: now)
    os.write(descriptor, b"zero ")
    assert not file.ship(node.store)
    assert node.stored() == {"rank-0": [b"zero "]}
    os.write(descriptor, b"one ")
    now += EVERY / 2
    os.write(descriptor, b"two ")
    assert not file.ship(node.store)
    assert node.stored() == {"rank-0": [b"zero "]}
    now += EVERY / 2
    assert not file.ship(node.store)
    assert node.stored() == {"rank-0": [b"zero one two "]}
    assert EVERY + POLL < PROMISED
    os.write(descriptor, b"the last")
    os.close(descriptor)
    assert file.ship(node.store)
    assert node.stored() == {"rank-0": [b"zero one two the last"]}


def test_much_output_is_stored_in_pieces_without_waiting(node: Node) -> None:
    path = node.folder / "logs" / Stream.new(2, "rank-0", datetime.now(UTC)).file
    descriptor = locked_file(path)
    written = bytes(range(256)) * (PIECE // 256) * 2
    file = LogFile(path, stream_of(path), 0, EVERY, lambda: 0.0)
    os.write(descriptor, b"first")
    file.ship(node.store)
    os.write(descriptor, written + b"rest")
    file.ship(node.store)
    assert node.stored() == {"rank-0": [b"first" + written]}


def test_two_that_ship_the_same_file_store_it_once(node: Node) -> None:
    """A file may seem left over to one shipper while another is about to go on with it."""
    path = node.folder / "logs" / Stream.new(2, "rank-0", datetime.now(UTC)).file
    descriptor = locked_file(path)
    first, second = (LogFile(path, stream_of(path), 0, 0.0) for _ in range(2))
    for file, word in ((first, b"a"), (second, b"bc"), (second, b"d"), (first, b"efg")):
        os.write(descriptor, word)
        file.ship(node.store)
    os.close(descriptor)
    assert first.ship(node.store)
    assert node.stored() == {"rank-0": [b"abcdefg"]}


def test_a_process_goes_on_where_its_output_cannot_be_kept(node: Node, tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way of the folder")
    out, errors = node.start("print('on its own stdout')").communicate()
    assert out == b"on its own stdout\n"
    assert b"the output of rank-0 is not stored" in errors


def test_a_full_disk_ends_no_process_that_prints(tmp_path: Path) -> None:
    code = "from pathlib import Path; from finetune_trainer.launch.environment import redirect_output; import logging\n"
    code += "redirect_output(Path('/dev/full')); print('no room for this'); logging.warning('nor for this')"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_shipping_loads_neither_torch_nor_ray() -> None:
    code = "import sys, finetune_trainer.launch.shipper, finetune_trainer.launch.log_files\n"
    code += "print({'torch', 'ray', 'transformers', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"set()\n"


def stream_of(path: Path) -> Stream:
    stream = Stream.of_file(path)
    assert stream is not None
    return stream
