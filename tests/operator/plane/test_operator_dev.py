"""`make operator-dev` brings up what it says, its kubectl lines work, and Ctrl-C leaves nothing behind."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

import operator_dev

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).resolve().parents[3]
USUAL_PORTS = (8443, 8080)


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    return [sys.executable, operator_dev.__file__, "--no-operator", "--folder", str(tmp_path / "dev")]


@pytest.fixture
def running_operator(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """With the operator, while others have the ports that it listens on in a cluster."""
    command = [sys.executable, operator_dev.__file__, "--no-kuberay", "--folder", str(tmp_path / "dev")]
    with ExitStack() as stack:
        for port in USUAL_PORTS:
            other = stack.enter_context(socket.socket())
            with suppress(OSError):  # somebody else has it
                other.bind(("", port))
                other.listen()
        process = stack.enter_context(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
        stack.callback(process.kill)
        yield process


@pytest.fixture
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        yield process
        process.kill()


def exports_of(running: subprocess.Popen[str], last: str) -> str:
    """The line to begin another terminal with, once `last` was said."""
    assert running.stdout is not None
    said: list[str] = []
    while not said or last not in said[-1]:
        said.append(running.stdout.readline())
        assert said[-1], "".join(said)
    return next(line for line in said if line.strip().startswith("export PATH="))


def shell(*lines: str) -> str:
    """What these lines print in another terminal."""
    done = subprocess.run(["sh", "-ec", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_serves_until_ctrl_c_and_then_leaves_nothing(
    command: list[str], running: subprocess.Popen[str], tmp_path: Path
) -> None:
    exports = exports_of(running, "yours to start")
    shown = shell(exports, "kubectl get namespaces,crds -o name")
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


def test_the_operator_runs_beside_whatever_else_listens_and_for_this_machine_only(
    running_operator: subprocess.Popen[str],
) -> None:
    exports = exports_of(running_operator, "metrics are at")
    job = ROOT / "examples" / "quickstart.yaml"
    wait = "kubectl wait --for=jsonpath={.status.phase}=Starting finetunejob/quickstart --timeout=60s"
    shell(exports, f"kubectl apply -f {job}", wait)
    (process,) = [
        one for one in psutil.Process(running_operator.pid).children() if operator_dev.OPERATOR in one.cmdline()
    ]
    listening = [one.laddr for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    assert [address.ip for address in listening] == ["127.0.0.1"] * 2
    assert {address.port for address in listening}.isdisjoint(USUAL_PORTS)
    running_operator.terminate()  # which it hands on; Ctrl-C reaches the operator by itself
    assert running_operator.wait(20) == 0
    assert not process.is_running()
