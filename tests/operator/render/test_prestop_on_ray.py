"""A pod that is stopped: the preStop hook against a real Ray with token authentication, driver and ranks."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.render.environment import RAY
from finetune_operator.render.places import JOB_DIR
from finetune_operator.render.prestop import rank_runs
from finetune_operator.render.rayjob import ENTRYPOINT
from finetune_trainer.context import StopSignal
from finetune_trainer.launch.receiver import Receiver
from launch_job import TARGETS, manifest

SCRIPT = Path(__file__).parents[3] / "operator" / "finetune_operator" / "render" / "prestop.py"
BIN = Path(sys.executable).parent
PATIENCE = 200.0


@dataclass(frozen=True)
class Pod:
    """A Ray node that is head and worker in one, as its container's processes see it."""

    environ: dict[str, str]
    port: int

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """Ask Ray's job API."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.environ['RAY_AUTH_TOKEN']}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    def pre_stop(self, role: str, submission: str) -> subprocess.Popen[bytes]:
        """Run the hook as the kubelet does."""
        command = [sys.executable, str(SCRIPT), role, submission, str(PATIENCE), str(self.port)]
        return subprocess.Popen(command, env={**self.environ, "FQ_RAY_IP": "127.0.0.1"})


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    state = tmp_path_factory.mktemp("pod")
    sessions = tempfile.mkdtemp(prefix="r", dir="/tmp")  # Ray's sockets need short paths
    gcs, dashboard, agent, metrics, client = free_ports(5)
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        **RAY,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_JOB_STOP_WAIT_TIME_S": "120",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "FINETUNE_STATE_DIR": str(state / "state"),
        "FINETUNE_WORKDIR": str(state / "work"),
        "PYTHONPATH": str(TARGETS),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    options = {
        "port": gcs,
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": agent,
        "metrics-export-port": metrics,
        "ray-client-server-port": client,
        "num-cpus": 2,
        "object-store-memory": 128 * 2**20,
        "temp-dir": sessions,
        "node-ip-address": "127.0.0.1",
    }
    command = [
        str(BIN / "ray"),
        "start",
        "--head",
        "--block",
        *(f"--{name}={value}" for name, value in options.items()),
    ]
    with (state / "ray.log").open("wb") as log:
        ray = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
    found = Pod(environ, dashboard)
    try:
        wait_for_ray(found, ray)
        yield found
    finally:
        ray.terminate()
        ray.wait(60)
        shutil.rmtree(sessions, ignore_errors=True)


def wait_for_ray(pod: Pod, ray: subprocess.Popen[bytes]) -> None:
    wake, end = threading.Event(), time.monotonic() + PATIENCE
    while time.monotonic() < end:
        assert ray.poll() is None, "ray start has ended"
        try:
            pod.request("GET", "/api/jobs/")
            return
        except (urllib.error.URLError, OSError):
            wake.wait(0.5)
    raise AssertionError("Ray does not answer")


@pytest.mark.alone  # the ranks of other tests would hold the pod
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_stopped_pod_ends_the_run_with_a_commit_and_goes_when_nothing_trains_any_more(
    pod: Pod, tmp_path: Path
) -> None:
    events: list[dict[str, Any]] = []
    training = threading.Event()

    def sink(event: Any) -> None:
        events.append(dict(event))
        if event["kind"] == "progress":
            training.set()

    checkpoint = {"uri": (tmp_path / "checkpoints").as_uri(), "everySteps": 1}
    document = manifest("stopped", replicas=2, checkpoint=checkpoint)
    document["metadata"]["uid"] = "3f0c6b1e-0000-4000-8000-000000000001"
    (tmp_path / "job.json").write_text(json.dumps(document))
    with Receiver(sink, StopSignal()) as receiver:
        entrypoint = f"{ENTRYPOINT.replace(JOB_DIR, str(tmp_path))} --entrypoint launch_targets:stopping_slowly"
        channel = " ".join(f"{name}={value}" for name, value in receiver.channel().environ().items())
        body = {"entrypoint": entrypoint.replace("exec ", f"exec env {channel} "), "submission_id": "stopped-abcde-1"}
        pod.request("POST", "/api/jobs/", body)
        assert training.wait(PATIENCE), pod.request("GET", "/api/jobs/stopped-abcde-1/logs")
        assert rank_runs()
        hooks = [pod.pre_stop(role, "stopped-abcde-1") for role in ("worker", "head")]
        assert [hook.wait(PATIENCE) for hook in hooks] == [0, 0]
        assert not rank_runs()
        assert pod.request("GET", "/api/jobs/stopped-abcde-1")["status"] == "STOPPED"
    assert [event["exitCode"] for event in events if event["kind"] == "failure"] == [15]
    assert "a checkpoint was committed" in events[-1]["message"]

    begun = time.monotonic()  # a pod in which nothing trains is not held
    idle = [pod.pre_stop(role, "stopped-abcde-1") for role in ("worker", "head")]
    assert [hook.wait(30) for hook in idle] == [0, 0]
    assert time.monotonic() - begun < 10
