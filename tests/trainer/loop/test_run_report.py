"""The report of a real run: written beside training, at its end, and over interruptions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.errors import Stopped
from loop_runner import Killed, Recorder, Train, kill_at_commit
from small_job import SmallJob

SMALL: dict[str, Any] = {"workers": {"replicas": 1}, "training": {"maxSteps": 6}, "evaluation": {"everySteps": 2}}


def page(small_job: SmallJob) -> Path:
    return small_job.folder / "checkpoints" / "default.small" / "report.html"


def test_finished_run_has_its_report_beside_the_model_and_beside_the_checkpoints(
    small_job: SmallJob, train: Train
) -> None:
    result, _ = train(small_job.write(**SMALL))
    exported = small_job.folder / "output" / "small" / "report.html"
    assert result["report"]["html"] == exported.as_uri()
    for path in (exported, page(small_job)):
        text = path.read_text()
        for part in ("finished", "Training lowered the held-out loss", "Learning rate", "Throughput", "maxSteps: 6"):
            assert part in text
        assert "twelve make" in text or "<mark>" in text, "the sample with its mask"


def test_report_tells_of_the_interruptions_of_a_run(small_job: SmallJob, train: Train) -> None:
    manifest = small_job.write(**SMALL, checkpoint={"everySteps": 2})
    with pytest.raises(Killed):
        train(manifest, kill_at_commit(2))
    with pytest.raises(Stopped):
        train(manifest, Recorder(stop_after=5))
    train(manifest)
    text = page(small_job).read_text()
    assert "start after an interruption (2)" in text
    assert "Starts and checkpoints" in text


def test_report_that_cannot_be_written_is_said_once_and_stops_nothing(small_job: SmallJob, train: Train) -> None:
    page(small_job).mkdir(parents=True)  # no file can take its place
    result, recorder = train(small_job.write(**SMALL))
    said = [event for event in recorder.of("phase") if event["name"] == "writing the report"]
    assert len(said) == 1
    assert "training goes on" in str(said[0]["detail"])
    assert (small_job.folder / "output" / "small" / "report.html").is_file()
    assert result["step"] == 6
