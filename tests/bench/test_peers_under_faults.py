"""What other ways to keep a checkpoint make of the faults that ours is held to (store/test_fault_matrix.py)."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path

import pytest

from bench.fault_peers import CONTENT, PEERS
from bench.peers import installed
from bench.store_race import PEERS as PACKAGES
from fault_modes import LASTING, MODES, Target
from fault_paths import RIGHT, SILENT, TOLD
from ranks import REPOSITORY
from s3_faults.server import FaultyS3, serving_faults

pytestmark = pytest.mark.bench

KEYS = {"ray": "*/state.bin", "dcp": "*.distcp"}
NAMES = {"ray": "Ray Train", "dcp": "DCP, s3torchconnector"}
PATIENCE = 60.0  # seconds; above it a library counts as one that hangs
HANGS = "hangs"
LEAVES = " (parts left)"


class PeerProcess:
    """A peer that can be asked; it is started again after one that hung."""

    def __init__(self, name: str, server: FaultyS3, folder: Path) -> None:
        paths = [str(installed(PACKAGES)), os.environ.get("PYTHONPATH", "")]
        self._env = {**os.environ, **server.environment(), "PYTHONPATH": os.pathsep.join(paths)}
        self._command = [sys.executable, str(Path(__file__).with_name("fault_peers.py")), name, str(folder)]
        self._start()

    def ask(self, verb: str, uri: str) -> str:
        """What came of an order: RIGHT, "wrong", TOLD or HANGS."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{verb} {uri}\n".encode())
        self._process.stdin.flush()
        if select.select([self._process.stdout], [], [], PATIENCE)[0]:
            came: str = json.loads(self._process.stdout.readline())["came"]
            return came
        self.end()
        self._start()
        return HANGS

    def end(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.communicate()

    def _start(self) -> None:
        pipe = subprocess.PIPE
        log = subprocess.DEVNULL
        self._process = subprocess.Popen(self._command, env=self._env, stdin=pipe, stdout=pipe, stderr=log, bufsize=0)


@contextmanager
def peer(name: str, server: FaultyS3, folder: Path) -> Iterator[PeerProcess]:
    process = PeerProcess(name, server, folder)
    try:
        yield process
    finally:
        process.end()


def saved(process: PeerProcess, server: FaultyS3, name: str, mode: str) -> str:
    """What a save under a fault comes to: what was stored counts, and where it is not right, whether a load says so."""
    bucket = server.make_bucket()
    uri = f"s3://{bucket}/{name}"
    MODES[mode](Target(server, bucket, KEYS[name], writes=True))
    came = process.ask("save", uri)
    server.restart()
    left = LEAVES if server.bucket(bucket).uploads() else ""
    if came != RIGHT:
        return came + left
    if mode.endswith("at rest"):
        return {"wrong": SILENT}.get(read := process.ask("load", uri), read)
    stored = [one.data for key, one in server.bucket(bucket).listed().items() if key.endswith(KEYS[name][1:])]
    return (RIGHT if any(CONTENT in data for data in stored) else SILENT) + left


def loaded(process: PeerProcess, server: FaultyS3, name: str, mode: str) -> str:
    """What a load under a fault comes to, of a checkpoint that was saved without."""
    bucket = server.make_bucket()
    uri = f"s3://{bucket}/{name}"
    assert process.ask("save", uri) == RIGHT
    MODES[mode](Target(server, bucket, KEYS[name], writes=False))
    came = process.ask("load", uri)
    server.restart()
    return SILENT if came == "wrong" else came


def table(found: dict[str, dict[str, str]]) -> str:
    """The results as Markdown, with ours beside them."""
    heads = ["fault", "ours", *(f"{NAMES[name]} {verb}" for name in PEERS for verb in ("saves", "loads"))]
    rows = [heads, ["---"] * len(heads)]
    rows += [[mode, TOLD if mode in LASTING else RIGHT, *cells.values()] for mode, cells in found.items()]
    versions = [*(f"{name} {version(name)}" for name in ("ray", "pyarrow", "torch")), *PACKAGES]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", f"{', '.join(versions)}, {date.today()}", ""])


def test_others_are_measured_by_the_faults_that_ours_withstands(tmp_path: Path) -> None:
    found: dict[str, dict[str, str]] = {mode: {} for mode in MODES}
    with serving_faults() as server:
        for name in PEERS:
            (tmp_path / name).mkdir()
            with peer(name, server, tmp_path / name) as process:
                bucket = server.make_bucket()
                assert process.ask("save", f"s3://{bucket}/{name}") == RIGHT
                assert process.ask("load", f"s3://{bucket}/{name}") == RIGHT
                for mode in MODES:
                    found[mode][f"{name} saves"] = saved(process, server, name, mode)
                    found[mode][f"{name} loads"] = loaded(process, server, name, mode)
    folder = REPOSITORY / "build" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "faults.md").write_text(table(found))
    print(f"\n{table(found)}")
