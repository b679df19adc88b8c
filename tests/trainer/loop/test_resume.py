"""Stopped or killed at an evaluation, a run ends at the same step and exports the same one as without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.errors import Stopped
from loop_runner import Killed, Recorder, Train, kill_at_commit
from small_job import SmallJob

ONE_RANK: dict[str, Any] = {"workers": {"replicas": 1, "gpusPerReplica": 0}}
FROZEN: dict[str, Any] = {
    "training": {"learningRate": 1e-12},
    "evaluation": {"everySteps": 2, "earlyStopping": {"patience": 2}},
}


def forget_what_is_held_out(job: SmallJob) -> None:
    """Hold out answers of letters that no training answer has, so that every step makes them less likely."""
    messages = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "QXZJ KVWY"}]
    (job.folder / "eval.jsonl").write_text(json.dumps({"messages": messages}) + "\n")


def ends(train: Train, path: Path) -> dict[str, Any]:
    result, _ = train(path)
    return {name: result[name] for name in ("step", "exportedStep", "best", "evalLoss", "evalLosses", "loss")}


def test_the_best_step_is_exported_though_a_stop_came_before_its_evaluation(train: Train, small_job: SmallJob) -> None:
    forget_what_is_held_out(small_job)
    often = {"evaluation": {"everySteps": 2}}
    whole = ends(train, small_job.write("whole", **often, **ONE_RANK))
    assert (whole["exportedStep"], whole["step"]) == (2, 12)
    stopped = small_job.write("stopped", **often, **ONE_RANK)
    with pytest.raises(Stopped, match="stopped at step 2"):
        train(stopped, Recorder(stop_after=1))
    assert ends(train, stopped) == whole


def test_patience_that_ends_at_the_step_of_a_stop_ends_there(train: Train, small_job: SmallJob) -> None:
    whole = ends(train, small_job.write("whole", **FROZEN, **ONE_RANK))
    assert whole["step"] == 6
    stopped = small_job.write("stopped", **FROZEN, **ONE_RANK)
    with pytest.raises(Stopped, match="stopped at step 6"):
        train(stopped, Recorder(stop_after=5))
    assert ends(train, stopped) == whole


def test_a_run_that_is_killed_when_its_patience_is_over_trains_no_further(train: Train, small_job: SmallJob) -> None:
    periodic = {"checkpoint": {"everySteps": 2}}
    whole = ends(train, small_job.write("whole", **FROZEN, **periodic, **ONE_RANK))
    assert whole["step"] == 6
    killed = small_job.write("killed", **FROZEN, **periodic, **ONE_RANK)
    with pytest.raises(Killed):
        train(killed, kill_at_commit(6))
    assert ends(train, killed) == whole


def test_a_resume_commits_nothing_that_is_committed_already(train: Train, small_job: SmallJob) -> None:
    path = small_job.write("small", **ONE_RANK)
    with pytest.raises(Killed):
        train(path, kill_at_commit(4))
    _, recorder = train(path)
    assert [event["step"] for event in recorder.of("checkpoint")] == [6, 8, 12]
