"""The real training loop under both launchers: without Ray, through a kill, a stop and a user's error."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from finetune_trainer.launch.launcher import Launcher, Lines, Plan
from finetune_trainer.launch.torchrun import TorchrunLauncher
from finetune_trainer.store import Checkpoint, RunLog, open_store
from launch_job import Shown, plan_of, rest, run_command, supervise, until
from small_job import SmallJob, make_small_job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

LONG: dict[str, Any] = {
    "training": {"maxSteps": 150, "globalBatchSize": 4, "microBatchSize": 1},
    "checkpoint": {"everySteps": 20},
    "evaluation": {"everySteps": 50},
}
"""Long enough to be hit by a signal before its end."""

LAUNCHERS = ["torchrun", pytest.param("ray", marks=pytest.mark.soak)]
"""On Ray the elastic run and the tests on nodes lose ranks too."""


def launcher(name: str, request: pytest.FixtureRequest, made: Plan) -> Callable[[Lines], Launcher]:
    """A launcher on the plan; the Ray that all tests share is started for the first that needs it."""
    if name == "torchrun":
        return lambda lines: TorchrunLauncher(made, lines)
    request.getfixturevalue("ray_here")
    from finetune_trainer.launch.ray_train import RayLauncher

    return lambda lines: RayLauncher(made, lines)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> SmallJob:
    return make_small_job(tmp_path_factory.mktemp("real-loop"))


@pytest.fixture(scope="module")
def whole(job: SmallJob) -> list[dict[str, Any]]:
    """The metrics of a run that nothing disturbs, started on a Python that has no Ray."""
    path = job.write("whole", **LONG)
    (job.folder / "sitecustomize.py").write_text("import sys\nsys.modules['ray'] = None\n")
    environ = {"PYTHONPATH": os.pathsep.join([str(job.folder), os.environ["PYTHONPATH"]])}
    with run_command(path, "--launcher", "torchrun", **environ) as process:
        events, err = rest(process)
    assert process.returncode == 0, (events, err)
    return job.metrics("whole")


def test_sigterm_stops_after_a_commit_and_the_same_command_ends_like_an_undisturbed_run(
    job: SmallJob, whole: list[dict[str, Any]]
) -> None:
    path = job.write("stopped", **LONG)
    with run_command(path, "--launcher", "torchrun") as process:
        until(process, "progress")
        process.send_signal(signal.SIGTERM)
        events, err = rest(process)
    assert process.returncode == 15, (events, err)
    assert "SIGTERM received" in events[-1]["failure"]["message"]
    log = RunLog(open_store(f"file://{job.folder}/checkpoints"), "default.stopped")
    assert 0 < log.checkpoints()[-1].step < 150
    with run_command(path, "--launcher", "torchrun") as process:
        events, err = rest(process)
    assert process.returncode == 0, (events, err)
    assert job.metrics("stopped") == whole


def steps_after(view: Shown) -> int:
    """Steps between the last one that was told before the one restart and the commit that was loaded after it."""
    kinds = [event["kind"] for event in view.events]
    before, after = view.events[: kinds.index("restart")], view.events[kinds.index("restart") :]
    last = [event["step"] for event in before if event["kind"] == "progress"][-1]
    (loaded,) = [event["step"] for event in after if event.get("name") == "resuming"]
    return max(0, int(last) - int(loaded))


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_run_whose_rank_is_killed_is_restarted_in_place_and_ends_like_an_undisturbed_one(
    name: str, job: SmallJob, whole: list[dict[str, Any]], request: pytest.FixtureRequest
) -> None:
    document = job.manifest(f"killed-{name}", failurePolicy={"maxRestarts": 1}, **LONG)
    made = plan_of(document, "launch_targets:killed_after_a_commit")
    view = Shown()
    ended = supervise(launcher(name, request, made), made, view)
    assert ended.exit_code == 0, ended
    assert len(view.of("restart")) == 1
    assert [event["stepsLost"] for event in view.of("phase") if event["name"] == "resuming"] == [steps_after(view)]
    log = RunLog(open_store(f"file://{job.folder}/checkpoints"), f"default.killed-{name}")
    (loaded,) = [event["step"] for event in view.of("phase") if event["name"] == "resuming"]
    # The commit may have been made beside training just before the end, and nobody told of it any more.
    assert loaded in [entry.step for entry in log.entries() if isinstance(entry, Checkpoint)]
    assert all(event["seconds"] > 0 and event["stepSeconds"] > 0 for event in view.of("checkpoint"))
    assert job.metrics(f"killed-{name}") == whole
    assert "Loading weights" not in (made.folder.logs / "rank-1.log").read_text()


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_truncated_file_is_the_one_cause_and_no_reason_to_start_again(
    name: str, job: SmallJob, request: pytest.FixtureRequest
) -> None:
    whole_file = gzip.compress((job.folder / "train.jsonl").read_bytes())
    (job.folder / "cut.jsonl.gz").write_bytes(whole_file[: len(whole_file) // 2])
    document = job.manifest(f"cut-{name}", data={"train": [{"uri": f"file://{job.folder}/cut.jsonl.gz"}]})
    made = plan_of(document)
    view = Shown()
    ended = supervise(launcher(name, request, made), made, view)
    assert ended.failure is not None
    assert (ended.exit_code, ended.failure.reason, ended.failure.rank) == (11, "BadData", 0)
    assert "cut.jsonl.gz" in ended.failure.message
    assert view.of("restart") == []
    assert view.of("failure") == []
    assert "PeerFailed: rank 0 failed" in (made.folder.logs / "rank-1.log").read_text()


def test_a_rank_without_finetune_run_finds_an_unwritable_output_before_it_trains(job: SmallJob) -> None:
    output = {"uri": f"file://{job.folder}/train.jsonl/output"}
    path = job.write("unwritable", output=output, workers={"replicas": 1})
    command = [sys.executable, "-m", "finetune_trainer.main", str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 14, ran.stderr
    assert "spec.output.uri: " in ran.stderr
    assert "fetching the model" not in ran.stdout
