"""`finetune run` as the user starts it: Ctrl-C, kills, an existing cluster, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from finetune_trainer.context import StopSignal
from finetune_trainer.launch.folders import WORKDIR
from finetune_trainer.launch.receiver import Receiver
from launch_job import manifest, rest, run_command, until
from small_job import make_small_job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

GONE = 60.0
"""Seconds within which every process of a run has to be gone."""

ABRUPT = ["torchrun", pytest.param("ray", marks=pytest.mark.soak)]
"""Launchers of runs that are ended without a stop: what ends Ray then is Ray's, and a Ray of one's own is dear."""


@contextmanager
def finetune_run(folder: Path, target: str, *options: str, **spec: Any) -> Iterator[subprocess.Popen[str]]:
    """Start `finetune run` on a target."""
    folder.mkdir(exist_ok=True)
    job = folder / "job.yaml"
    job.write_text(json.dumps(manifest(folder.name.replace("_", "-").lower()[:36].strip("-"), **spec)))
    with run_command(job, "--entrypoint", f"launch_targets:{target}", *options) as process:
        yield process


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return every process that the run has started."""
    return psutil.Process(process.pid).children(recursive=True)


def expect_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=GONE)
    assert [left.cmdline() for left in alive if left.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.parametrize("launcher", ["ray", "torchrun"])
def test_ctrl_c_in_the_terminal_stops_after_a_checkpoint_without_noise(tmp_path: Path, launcher: str) -> None:
    with finetune_run(tmp_path / f"ctrl-c-{launcher}", "until_stopped", "--launcher", launcher) as process:
        until(process, "progress")
        started = family(process)
        os.killpg(process.pid, signal.SIGINT)
        events, err = rest(process)
    assert process.returncode == 15, err
    assert events[-1]["kind"] == "ended"
    assert events[-1]["exitCode"] == 15
    assert "a checkpoint was committed" in events[-1]["failure"]["message"]
    assert any("once more ends the run at once" in event.get("message", "") for event in events)
    assert err == ""
    expect_gone(started)


def test_sigterm_leaves_the_time_for_a_slow_checkpoint(tmp_path: Path) -> None:
    with finetune_run(tmp_path / "sigterm-ray", "stopping_slowly", "--launcher", "ray") as process:
        until(process, "progress")
        process.send_signal(signal.SIGTERM)
        events, err = rest(process)
    assert process.returncode == 15, err
    assert "a checkpoint was committed" in events[-1]["failure"]["message"]


@pytest.mark.parametrize("launcher", ABRUPT)
def test_a_second_ctrl_c_ends_the_run_at_once(tmp_path: Path, launcher: str) -> None:
    with finetune_run(tmp_path / f"abort-{launcher}", "deaf", "--launcher", launcher) as process:
        until(process, "progress")
        started = family(process)
        os.killpg(process.pid, signal.SIGINT)
        until(process, "note")
        os.killpg(process.pid, signal.SIGINT)
        events, err = rest(process)
    assert process.returncode == 1, err
    assert events[-1]["failure"]["reason"] == "Aborted"
    assert "Traceback" not in err
    expect_gone(started)


@pytest.mark.parametrize("launcher", ABRUPT)
def test_no_rank_outlives_a_killed_driver(tmp_path: Path, launcher: str) -> None:
    with finetune_run(tmp_path / f"orphan-{launcher}", "deaf", "--launcher", launcher) as process:
        noted: list[Path] = []
        while len(noted) < 2:
            until(process, "progress")  # rank 0's
            noted = list(Path(os.environ[WORKDIR]).glob(f"default.orphan-{launcher}/starts-*.json"))
        ranks = [psutil.Process(json.loads(file.read_text())[0]) for file in noted]
        process.kill()
        expect_gone(ranks)


def test_a_users_error_is_shown_once_and_as_text_and_told_to_whoever_started_the_run(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(json.dumps(manifest("shown-once", queueName="gpus")))
    code = "from finetune_trainer.cli.app import main; main()"
    options = ["--launcher", "torchrun", "--entrypoint", "launch_targets:bad_data"]
    told: list[dict[str, Any]] = []
    with Receiver(lambda event: told.append(dict(event)), StopSignal()) as operator:
        ran = subprocess.run(
            [sys.executable, "-c", code, "run", str(job), *options],
            env={**os.environ, **operator.channel().environ()},
            capture_output=True,
            text=True,
            check=False,
        )
    assert ran.returncode == 11
    assert [event["kind"] for event in told] == ["phase", "failure"]
    assert (told[-1]["exitCode"], told[-1]["rank"], told[-1]["retryable"]) == (11, 1, False)
    shown = ran.stdout + ran.stderr
    assert shown.count("record 7 has no messages") == 1
    assert "BadData (rank 1, exit code 11)" in shown
    assert shown.count("no effect here, only on a cluster: spec.queueName") == 1
    assert "Traceback" not in shown


def test_an_output_that_cannot_be_written_is_told_before_any_rank_starts(tmp_path: Path) -> None:
    output = {"uri": f"file://{tmp_path}/train.jsonl/output"}
    job = make_small_job(tmp_path).write(output=output)
    told: list[dict[str, Any]] = []
    with (
        Receiver(lambda event: told.append(dict(event)), StopSignal()) as operator,
        run_command(job, **operator.channel().environ()) as process,
    ):
        events, err = rest(process)
    assert process.returncode == 14, err
    assert [event["kind"] for event in events if event["kind"] != "note"] == ["ended"]
    assert events[-1]["exitCode"] == 14
    assert "spec.output.uri: " in events[-1]["failure"]["message"]
    assert [(event["kind"], event["message"]) for event in told] == [("failure", events[-1]["failure"]["message"])]


@pytest.fixture
def ray_cluster(tmp_path: Path) -> Iterator[str]:
    """A Ray cluster that somebody else started; yields its address."""
    import socket
    import tempfile

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as temp:
        options = ["--head", "--block", "--num-cpus=2", f"--port={port}", "--include-dashboard=false"]
        quiet = ["--disable-usage-stats", "--object-store-memory=80000000", f"--temp-dir={temp}"]
        log = (tmp_path / "ray.log").open("wb")
        head = subprocess.Popen(
            [str(Path(sys.executable).with_name("ray")), "start", *options, *quiet],
            stdout=log,
            stderr=log,
            env={**os.environ, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0", "RAY_AUTH_MODE": "disabled"},
        )
        try:
            yield f"127.0.0.1:{port}"
        finally:
            children = psutil.Process(head.pid).children(recursive=True)
            head.kill()
            for child in children:
                child.kill()
            head.wait()


def test_a_run_joins_a_cluster_that_is_there_and_leaves_it_running(
    tmp_path: Path, ray_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ready = [str(Path(sys.executable).with_name("ray")), "health-check", "--address", ray_cluster]
    while subprocess.run(ready, capture_output=True, check=False).returncode != 0:
        pass  # bounded by the test's timeout
    for name in ("first", "second"):
        folder = tmp_path / f"joined-{name}"
        checkpoint = {"uri": (folder / "checkpoints").as_uri(), "everySteps": 1}
        with finetune_run(folder, "succeed", "--address", ray_cluster, checkpoint=checkpoint) as process:
            events, err = rest(process)
        assert process.returncode == 0, (err, events)
        (result,) = (event for event in events if event["kind"] == "result")
        assert result["sum"] == 3
