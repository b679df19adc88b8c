"""Real ranks under torch's elastic agent: success, causes, restarts, stops."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.context import StopSignal
from finetune_trainer.launch.error_file import ERROR_FILE, write_error_file
from finetune_trainer.launch.outcome import Failure, root_cause
from finetune_trainer.launch.torchrun import TorchrunLauncher
from launch_job import TARGETS, Shown, plan, starts, supervise

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NO_RAY = """
import sys
class NoRay:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "ray":
            raise ModuleNotFoundError("No module named 'ray'", name="ray")
sys.meta_path.insert(0, NoRay())
"""


def test_ranks_work_together_without_ray_and_the_result_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_RAY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(TARGETS)]))
    made = plan("succeed", "torchrun-succeed")
    view = Shown()
    ended = supervise(lambda lines: TorchrunLauncher(made, lines), made, view)
    assert ended.exit_code == 0, ended
    assert ended.result == {
        "sum": 3,
        "places": [[0, 0, 2, "cpu"], [1, 1, 2, "cpu"]],
        "attempt": None,
        "job": "torchrun-succeed",
    }
    assert [event["step"] for event in view.of("progress")] == [1]


def test_a_users_error_is_the_cause_and_is_not_retried() -> None:
    made = plan("bad_data", "torchrun-bad-data")
    view = Shown()
    ended = supervise(lambda lines: TorchrunLauncher(made, lines), made, view)
    assert ended.exit_code == 11
    assert ended.failure is not None
    assert ended.failure.rank == 1
    assert ended.failure.message.startswith("file:///data/a.jsonl: record 7 has no messages")
    assert len(starts(made, 1)) == 1
    assert view.of("restart") == []
    assert "Traceback" in (made.folder.logs / "rank-1.log").read_text()


def test_a_killed_rank_is_started_again_and_then_succeeds() -> None:
    made = plan("killed_once", "torchrun-killed-once")
    view = Shown()
    ended = supervise(lambda lines: TorchrunLauncher(made, lines), made, view)
    assert ended.exit_code == 0, ended
    assert ended.result == {"sum": 3, "starts": 2}
    (restart,) = view.of("restart")
    assert restart["message"] == "rank 1 was killed by SIGKILL"
    assert (restart["restarts"], restart["maxRestarts"]) == (1, 5)


def test_restarts_end_with_the_budget() -> None:
    made = plan("always_killed", "torchrun-always-killed", failurePolicy={"maxRestarts": 1})
    ended = supervise(lambda lines: TorchrunLauncher(made, lines), made, Shown())
    assert ended.exit_code == 1
    assert ended.failure is not None
    assert (ended.failure.reason, ended.failure.rank) == ("Killed", 1)
    assert len(starts(made, 1)) == 2


def test_ranks_that_wait_for_ever_are_a_hang() -> None:
    made = plan("hang", "torchrun-hang", noProgressDeadlineSeconds=15, failurePolicy={"maxRestarts": 0})
    ended = supervise(lambda lines: TorchrunLauncher(made, lines), made, Shown())
    assert ended.exit_code == 16
    assert ended.failure is not None
    assert "spec.noProgressDeadlineSeconds" in ended.failure.message


@pytest.mark.parametrize(
    ("target", "exit_code", "started"),
    [("out_of_device_memory", 12, 1), ("out_of_host_memory", 13, 1), ("storage_gone", 14, 2)],
)
def test_what_ran_out_has_its_exit_code_and_only_storage_is_tried_again(
    target: str, exit_code: int, started: int
) -> None:
    made = plan(target, f"torchrun-{target.replace('_', '-')}", replicas=1, failurePolicy={"maxRestarts": 1})
    ended = supervise(lambda lines: TorchrunLauncher(made, lines), made, Shown())
    assert ended.exit_code == exit_code
    assert len(starts(made, 0)) == started


@pytest.mark.parametrize(
    ("seconds_later", "cause"),
    [(0, "rank 1 was killed by SIGKILL"), (16, "lost the connection to another rank: closed")],
)
def test_a_rank_that_the_agent_killed_is_not_the_cause(tmp_path: Path, seconds_later: int, cause: str) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    from finetune_trainer.launch.agent import failures_of

    lost = Failure(1, "PeerLost", "lost the connection to another rank: closed", True, 0, collateral=True)
    file = tmp_path / "error.json"
    write_error_file(lost, {ERROR_FILE: str(file)})
    ended = {0: ProcessFailure(0, 10, 1, str(file)), 1: ProcessFailure(1, 11, -signal.SIGKILL, "none")}
    ended[1].timestamp = ended[0].timestamp + seconds_later
    assert root_cause(failures_of(ended, out_of_memory=False)).message == cause


class AfterStep(Shown):
    """Asks for a stop once the ranks train."""

    def __init__(self, stop: StopSignal) -> None:
        super().__init__()
        self._stop = stop

    def show(self, event: Any) -> None:
        super().show(event)
        if event["kind"] == "progress":
            self._stop.request("SIGTERM received", within=120)


def test_a_stop_reaches_the_ranks_by_the_answer_to_their_reports() -> None:
    made = plan("until_stopped", "torchrun-stop")
    stop = StopSignal()
    ended = supervise(lambda lines: TorchrunLauncher(made, lines), made, AfterStep(stop), stop)
    assert ended.exit_code == 15
    assert ended.failure is not None
    assert "a checkpoint was committed" in ended.failure.message


def test_a_run_that_does_not_stop_in_time_is_ended() -> None:
    made = plan("deaf", "torchrun-deaf")
    stop = StopSignal()

    class Impatient(AfterStep):
        def show(self, event: Any) -> None:
            Shown.show(self, event)
            if event["kind"] == "progress":
                self._stop.request("SIGTERM received", within=0.5)

    ended = supervise(lambda lines: TorchrunLauncher(made, lines), made, Impatient(stop), stop)
    assert ended.exit_code == 1
    assert ended.failure is not None
    assert ended.failure.reason == "Aborted"


def plain(*command: str, **environ: str) -> subprocess.Popen[str]:
    """Start a command of the user's own, without `finetune run`."""
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environ},
    )


def test_plain_torchrun_works_and_logs_lines_when_nobody_listens() -> None:
    made = plan("succeed", "plain-torchrun")
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "finetune_trainer.main")
    with plain(*torchrun, str(made.folder.manifest), "--entrypoint", "launch_targets:succeed") as process:
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "step 1/1 (100.0 %)  loss 2.0000  50 tokens/s" in out
    assert "sum: 3" in out


def test_sigterm_to_the_users_own_torchrun_lets_its_ranks_commit_and_stop() -> None:
    made = plan("until_stopped", "plain-stop")
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "finetune_trainer.main")
    main = (*torchrun, str(made.folder.manifest), "--entrypoint", "launch_targets:until_stopped")
    with plain(*main, PYTHONUNBUFFERED="1") as process:
        assert process.stdout is not None
        assert "step 1/" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=240)
    assert err.count("a checkpoint was committed") >= 1, err


def test_a_single_process_needs_no_launcher_and_names_what_to_change_for_more_ranks() -> None:
    made = plan("succeed", "single")
    main = ("finetune_trainer.main", str(made.folder.manifest), "--entrypoint", "launch_targets:succeed")
    with plain(*main) as process:
        _, err = process.communicate(timeout=240)
    assert process.returncode == 10
    assert "spec.workers.replicas" in err
    assert "--nproc-per-node 2" in err
    with plain(*main, "--workers", "1") as process:
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "sum: 1" in out


def test_sigterm_to_a_rank_stops_it_with_a_commit() -> None:
    made = plan("until_stopped", "single-stop", replicas=1)
    main = ("finetune_trainer.main", str(made.folder.manifest), "--entrypoint", "launch_targets:until_stopped")
    with plain(*main, PYTHONUNBUFFERED="1") as process:
        assert process.stdout is not None
        assert "step 1/" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        drain = threading.Thread(target=process.stdout.read)
        drain.start()
        assert process.stderr is not None
        err = process.stderr.read()
        drain.join()
    assert process.returncode == 15
    assert "a checkpoint was committed" in err
