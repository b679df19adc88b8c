"""A stop is obeyed wherever the run stands, nothing that was trained is lost, and the next start goes on from there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.context import StopSignal
from finetune_trainer.errors import Stopped
from finetune_trainer.export.publish import CLAIM, MANIFEST
from finetune_trainer.store import RunLog, open_store
from loop_runner import Recorder, Train
from small_job import SmallJob

ONE_RANK: dict[str, Any] = {"workers": {"replicas": 1, "gpusPerReplica": 0}}
PLACES = ("tokensPerSecond", "dataWaitShare", "output", "report", "checkpoints")


def stop_on(kind: str, **values: object) -> Recorder:
    """Ask for a stop when the first event of that kind with these values is reported."""

    def react(event: Mapping[str, object], stop: StopSignal) -> None:
        if event["kind"] == kind and all(event.get(name) == value for name, value in values.items()):
            stop.request("the test")

    return Recorder(react=react)


class StopLater(StopSignal):
    """A stop that is first seen at the `looks`-th look after it was asked for."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    @property
    def requested(self) -> bool:
        asked = super().requested
        self.looks -= asked
        return asked and self.looks <= 0


def ends(result: dict[str, Any]) -> dict[str, Any]:
    """The result but for what is measured in seconds or says where things lie."""
    return {name: value for name, value in result.items() if name not in PLACES}


def committed(job: SmallJob, name: str) -> list[int]:
    log = RunLog(open_store(f"file://{job.folder}/checkpoints"), f"default.{name}")
    return [entry.step for entry in log.checkpoints()]


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ("fetching the model", "stopped before indexing the data as asked"),
        ("indexing the data", "stopped before loading the model as asked"),
        ("loading the model", r"stopped before the first step as asked \(the test\): there was nothing to commit"),
    ],
)
def test_a_stop_before_the_first_step_ends_the_run_there(
    train: Train, small_job: SmallJob, phase: str, message: str
) -> None:
    path = small_job.write("small", **ONE_RANK)
    recorder = stop_on("phase", name=phase)
    with pytest.raises(Stopped, match=message):
        train(path, recorder)
    assert recorder.of("eval") == recorder.of("progress") == []
    assert committed(small_job, "small") == []


def test_a_stop_between_two_starts_trains_no_further_step(train: Train, small_job: SmallJob) -> None:
    path = small_job.write("small", **ONE_RANK)
    with pytest.raises(Stopped, match="stopped at step 5"):
        train(path, Recorder(stop_after=4))
    recorder = stop_on("audit")
    with pytest.raises(Stopped, match="stopped at step 5"):
        train(path, recorder)
    assert recorder.of("progress") == recorder.of("checkpoint") == []
    assert train(path)[0]["step"] == 12


def test_a_stop_during_the_evaluation_of_the_base_model_ends_it(train: Train, small_job: SmallJob) -> None:
    recorder = stop_on("audit")
    recorder.stop = StopLater(looks=3)  # before the evaluation, at its first and at its second micro-batch
    with pytest.raises(Stopped, match="stopped before the first step"):
        train(small_job.write("small", **ONE_RANK), recorder)
    assert recorder.stop.looks == 0
    assert recorder.of("eval") == []


def test_a_stop_after_the_evaluation_of_the_base_model_ends_the_run(train: Train, small_job: SmallJob) -> None:
    recorder = stop_on("eval", step=0)
    with pytest.raises(Stopped, match="stopped before the first step"):
        train(small_job.write("small", **ONE_RANK), recorder)
    assert recorder.of("progress") == []


def test_a_stop_during_the_last_evaluation_commits_what_was_trained(train: Train, small_job: SmallJob) -> None:
    whole, _ = train(small_job.write("whole", **ONE_RANK))
    path = small_job.write("stopped", **ONE_RANK)
    recorder = stop_on("progress", step=12)
    recorder.stop = StopLater(looks=2)
    with pytest.raises(Stopped, match="stopped at step 12"):
        train(path, recorder)
    assert [event["step"] for event in recorder.of("eval")] == [0, 6]
    assert committed(small_job, "stopped")[-1] == 12
    result, resumed = train(path)
    assert resumed.of("progress") == []
    assert [event["step"] for event in resumed.of("eval")] == [12]
    assert ends(result) == ends(whole)


@pytest.mark.parametrize(
    ("moment", "done"),
    [({"kind": "checkpoint", "step": 12}, 0), ({"kind": "phase", "name": "publishing", "done": 2}, 3)],
    ids=["before the export", "between two files"],
)
def test_a_stop_during_the_export_leaves_it_to_the_next_start(
    train: Train, small_job: SmallJob, moment: dict[str, Any], done: int
) -> None:
    whole, _ = train(small_job.write("whole", **ONE_RANK))
    path = small_job.write("stopped", **ONE_RANK)
    output = small_job.folder / "output" / "stopped"
    with pytest.raises(Stopped, match=r"training is done and committed, run the job again to complete the export"):
        train(path, stop_on(**moment))
    assert len(files(output) - {CLAIM}) == done
    assert MANIFEST not in files(output)
    result, resumed = train(path)
    assert resumed.of("progress") == resumed.of("checkpoint") == []
    assert ends(result) == ends(whole)
    assert MANIFEST in files(output)
    assert CLAIM not in files(output)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
