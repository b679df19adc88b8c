"""When a run commits, and what happens when it cannot."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.context import RunContext, StopSignal
from finetune_trainer.data import DataState
from finetune_trainer.spec import load_job
from finetune_trainer.store import Checkpoint, RunLog, open_store
from loop_runner import Recorder, Train
from small_job import SmallJob

ONE_RANK: dict[str, Any] = {"workers": {"replicas": 1, "gpusPerReplica": 0}}
SECONDS_PER_STEP = 10.0


class Clock:
    """A clock that moves with the steps that are reported."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def react(self, event: Mapping[str, object], _: StopSignal) -> None:
        self.now += SECONDS_PER_STEP * (event["kind"] == "progress")


def test_commits_by_time_follow_the_clock_since_the_last_one(process_group: None, small_job: SmallJob) -> None:
    from finetune_trainer.build import build
    from finetune_trainer.loop import fit

    checkpoint = {"everySteps": None, "everySeconds": 25, "keepBest": 0}
    job = load_job(small_job.write("small", checkpoint=checkpoint, evaluation={"everySteps": 100}, **ONE_RANK))
    clock = Clock()
    recorder = Recorder(react=clock.react)
    context = RunContext(0, 1, 0, 1, "cpu", None, recorder, recorder.stop, small_job.folder / "work")
    with build(job, context, clock) as run:
        fit(run)
    # 25 seconds have passed when the 4th step after a commit votes, after 3 steps of 10 seconds
    assert [event["step"] for event in recorder.of("checkpoint")] == [4, 8, 12]


def test_a_long_evaluation_says_that_it_goes_on(process_group: None, small_job: SmallJob) -> None:
    from finetune_trainer.build import build
    from finetune_trainer.loop import measure

    recorder = Recorder()
    moments = itertools.count(step=4.0)  # every look at the clock is 4 s later
    context = RunContext(0, 1, 0, 1, "cpu", None, recorder, recorder.stop, small_job.folder / "work")
    job = load_job(small_job.write("small", data={"packing": "None"}, **ONE_RANK))
    with build(job, context, lambda: next(moments)) as run:
        measure(run)
    told: list[Any] = [event["done"] for event in recorder.of("phase") if event["name"] == "evaluating"]
    assert len(told) > 2
    assert told == sorted(told)


def test_a_disk_that_is_full_at_a_commit_costs_nothing_that_was_committed(
    train: Train, small_job: SmallJob, tmp_path: Path
) -> None:
    whole, _ = train(small_job.write("whole", **ONE_RANK))
    disk = tmp_path / "disk"
    disk.mkdir()
    path = small_job.write("full", checkpoint={"uri": f"file://{disk}"}, **ONE_RANK)
    found = on_a_small_disk(disk, [sys.executable, str(Path(__file__).with_name("full_disk.py")), str(path), str(disk)])
    exit_code, message, retryable = found["failed"]
    assert (exit_code, retryable) == (14, True)
    assert f"{disk}/default.full/data/8-" in message
    assert "the disk is full" in message
    assert (found["kept"], found["problems"]) == ([4, 6], [])
    assert found["trained"] == list(range(7, 13))
    assert small_job.metrics("full") == small_job.metrics("whole")
    assert found["result"]["evalLoss"] == whole["evalLoss"]


def test_the_place_in_the_data_takes_less_than_1_kb_of_a_log_entry(train: Train, small_job: SmallJob) -> None:
    train(small_job.write("small", **ONE_RANK))
    log = RunLog(open_store(f"file://{small_job.folder}/checkpoints"), "default.small")
    entries = [entry for entry in log.entries() if isinstance(entry, Checkpoint)]
    places = [entry.body["progress"]["data"] for entry in entries]  # type: ignore[index,call-overload]  # JSON
    assert [DataState.model_validate(place).batches for place in places] == [entry.step for entry in entries] != []
    assert all(len(json.dumps(place)) < 1024 for place in places)


def on_a_small_disk(folder: Path, command: list[str]) -> dict[str, Any]:
    """Run a command in a namespace of its own where `folder` is a disk of 2 MB; returns the JSON it prints last."""
    mount = f'mount -t tmpfs -o size=2m tmpfs "{folder}" && exec "$@"'
    shell = [shutil.which("unshare") or "unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    if shutil.which("unshare") is None or subprocess.run([*shell, "true"], capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small tmpfs in a user namespace (unshare): a real full disk is NOT tested here")
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([*shell, *command], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report
