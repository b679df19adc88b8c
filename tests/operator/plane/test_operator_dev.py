"""`make operator-dev` brings up what it says, its kubectl lines work, and Ctrl-C leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import operator_dev

pytestmark = pytest.mark.cluster


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    return [sys.executable, operator_dev.__file__, "--no-operator", "--folder", str(tmp_path / "dev")]


@pytest.fixture
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        yield process
        process.kill()


def test_it_serves_until_ctrl_c_and_then_leaves_nothing(
    command: list[str], running: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert running.stdout is not None
    said: list[str] = []
    while not said or "yours to start" not in said[-1]:
        said.append(running.stdout.readline())
        assert said[-1], "".join(said)
    exports = next(line for line in said if line.strip().startswith("export PATH="))
    shell = ["sh", "-c", f"{exports}\nkubectl get namespaces,crds -o name"]
    shown = subprocess.run(shell, capture_output=True, text=True, check=True).stdout
    assert {"namespace/finetune-system", "customresourcedefinition.apiextensions.k8s.io/rayjobs.ray.io"} <= set(
        shown.split()
    )
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (second.returncode, second.stderr.partition(":")[0]) == (1, f"a control plane runs in {tmp_path / 'dev'}")
    servers = psutil.Process(running.pid).children(recursive=True)
    assert len(servers) == 4
    running.send_signal(signal.SIGINT)
    assert running.wait(10) == 0
    assert psutil.wait_procs(servers, 10)[1] == []
