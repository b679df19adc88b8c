"""One run at a time on a machine, its manifest and its watchers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from finetune_trainer.context import SilentReporter, StopSignal
from finetune_trainer.errors import SpecError
from finetune_trainer.launch.folders import AlreadyRunning, data_cache_bytes
from finetune_trainer.launch.watchdog import Watchdog
from finetune_trainer.spec import load_job
from launch_job import plan

HOLD = """
import sys
from pathlib import Path
from finetune_trainer.launch.folders import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_run_is_refused_while_another_process_runs_it_and_free_when_that_is_killed() -> None:
    folder = plan("succeed", "locked").folder
    command = [sys.executable, "-c", HOLD, str(folder.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(AlreadyRunning, match=f"process {other.pid}"), folder.locked():
            pass
        other.kill()
        other.wait()
        with folder.locked():
            assert (folder.path / "lock").read_text() == str(os.getpid())


def test_the_folder_holds_the_manifest_that_runs_and_is_private() -> None:
    made = plan("succeed", "manifest")
    assert load_job(made.folder.manifest) == made.job
    assert json.loads(made.folder.manifest.read_text())["metadata"]["name"] == "manifest"
    assert made.folder.logs.stat().st_mode & 0o077 == 0


def test_room_for_data_is_a_share_of_the_disk_or_what_is_asked_for(tmp_path: Path) -> None:
    assert data_cache_bytes(tmp_path, {}) == min(32 << 30, shutil.disk_usage(tmp_path).total // 10)
    assert data_cache_bytes(tmp_path, {"FINETUNE_DATA_CACHE_BYTES": "5000"}) == 5000
    assert data_cache_bytes(tmp_path, {"FINETUNE_DATA_CACHE_BYTES": "0"}) == 0
    with pytest.raises(SpecError, match=r"FINETUNE_DATA_CACHE_BYTES: is no number of bytes: write one such .*'5 GiB'"):
        data_cache_bytes(tmp_path, {"FINETUNE_DATA_CACHE_BYTES": "5 GiB"})


def test_the_watchdog_speaks_up_after_silence() -> None:
    barked = threading.Event()
    said: list[str] = []

    def on_hang(message: str) -> None:
        said.append(message)
        barked.set()

    with Watchdog(SilentReporter(), 0.05, on_hang):
        assert barked.wait(20)
    assert "spec.noProgressDeadlineSeconds" in said[0]


def test_the_watchdog_is_silent_once_the_rank_has_ended() -> None:
    barked = threading.Event()
    with Watchdog(SilentReporter(), 0.2, lambda _: barked.set()) as watchdog:
        watchdog.report({"kind": "progress"})
    assert not barked.wait(0.4)


def test_the_first_reason_and_the_earliest_deadline_of_a_stop_hold() -> None:
    now = 100.0
    stop = StopSignal(clock=lambda: now)
    assert not stop.requested
    assert stop.remaining() is None
    stop.request("SIGTERM received", within=60)
    stop.request("asked by the operator", within=30)
    stop.request("again", within=90)
    now = 110.0
    assert stop.requested
    assert stop.reason == "SIGTERM received"
    assert stop.remaining() == 20.0
    now = 200.0
    assert stop.remaining() == 0.0
