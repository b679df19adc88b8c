"""A real run and a real tracker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from finetune_trainer.context import StopSignal
from finetune_trainer.errors import Stopped
from finetune_trainer.trackers import feed
from loop_runner import Recorder, Train
from small_job import make_small_job

SPEC: dict[str, Any] = {"workers": {"replicas": 1}, "training": {"maxSteps": 4}, "trackers": {"tensorBoard": {}}}


def test_a_run_that_was_stopped_goes_on_in_its_trackers(
    tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "SHORT_WAIT", 60.0)
    manifest = make_small_job(tmp_path).write(**SPEC)
    with pytest.raises(Stopped):
        train(manifest, Recorder(stop_after=2))
    result, recorder = train(manifest)
    assert len(list((tmp_path / "checkpoints" / "default.small" / "tensorboard").iterdir())) == 2, "a file an attempt"
    found: Any = EventAccumulator(str(tmp_path / "checkpoints" / "default.small" / "tensorboard")).Reload()
    assert [one.step for one in found.Scalars("loss")] == [1, 2, 3, 4]
    assert found.Scalars("evalLoss")[-1].value == pytest.approx(result["evalLoss"])
    assert {"learningRate", "gradNorm", "hostBytes", "evalLoss/held-out"} <= set(found.Tags()["scalars"])
    assert [event for event in recorder.of("phase") if event["name"] == "tracking"] == []


def test_what_the_comparison_came_to_is_sent_and_a_start_that_only_exports_takes_nothing_back(
    tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "SHORT_WAIT", 60.0)
    manifest = make_small_job(tmp_path).write(**SPEC, evaluation={"everySteps": 2, "samples": 12})

    def stop(event: Any, signal: StopSignal) -> None:
        if event["kind"] == "phase" and event["name"] == "exporting":
            signal.request("the test")

    with pytest.raises(Stopped):
        train(manifest, Recorder(react=stop))
    result, _ = train(manifest)
    found: Any = EventAccumulator(str(tmp_path / "checkpoints" / "default.small" / "tensorboard")).Reload()
    assert [one.step for one in found.Scalars("loss")] == [1, 2, 3, 4]
    assert (
        found.Scalars("compared/held-out/loss/tuned")[-1].value < found.Scalars("compared/held-out/loss/base")[-1].value
    )
    assert found.Scalars("forgetting/general text")[-1].value == pytest.approx(result["forgetting"]["general text"])
