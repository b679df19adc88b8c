"""A checkpoint is stored beside training: what is stored is the state of its step, however far training has come."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

from finetune_trainer import commit
from finetune_trainer.context import RunContext, StopSignal
from finetune_trainer.engine import share, staging
from finetune_trainer.errors import StorageError
from finetune_trainer.spec import load_job
from finetune_trainer.store import Checkpoint, ObjectRef, RunLog, open_store
from finetune_trainer.store.file import FileStore
from loop_runner import Recorder, Train
from small_job import SmallJob

ONE_RANK: dict[str, Any] = {"workers": {"replicas": 1, "gpusPerReplica": 0}}
OFTEN: dict[str, Any] = {"checkpoint": {"everySteps": 2, "keepLast": 20}, **ONE_RANK}
FULL: dict[str, Any] = {"method": {"type": "Full", "lora": None}, **OFTEN}
SECONDS_TO_GIVE_UP = 60.0


class Gate:
    """Holds up every write below `data/<step>-` until it is opened; all other writes pass."""

    def __init__(self, patch: pytest.MonkeyPatch, step: int) -> None:
        self.opened, unheld = threading.Event(), FileStore.create

        def create(store: FileStore, key: str, *rest: Any, **more: Any) -> Any:
            if f"/data/{step}-" in key:
                assert self.opened.wait(SECONDS_TO_GIVE_UP), "training waited for the store, or the store for training"
            return unheld(store, key, *rest, **more)

        patch.setattr(FileStore, "create", create)


def opens(gate: Gate, when: Callable[[Mapping[str, object]], bool]) -> Recorder:
    def react(event: Mapping[str, object], _: StopSignal) -> None:
        if when(event):
            gate.opened.set()

    return Recorder(react=react)


def progressed_to(step: int) -> Callable[[Mapping[str, object]], bool]:
    return lambda event: event["kind"] == "progress" and event["step"] == step


def log_of(job: SmallJob, name: str) -> RunLog:
    return RunLog(open_store(f"file://{job.folder}/checkpoints"), f"default.{name}")


def contents(job: SmallJob, name: str) -> dict[int, list[tuple[str, int, str]]]:
    """Names, sizes and checksums of the tensors that each checkpoint of a run has stored, by step."""

    def tensors(refs: tuple[ObjectRef, ...]) -> list[tuple[str, int, str]]:
        found = [(ref.name, ref.size, ref.crc64) for ref in refs]
        return [one for one in found if one[0].endswith(".safetensors")]

    return {entry.step: tensors(entry.objects) for entry in log_of(job, name).checkpoints()}


@pytest.mark.parametrize("spec", [OFTEN, FULL], ids=["LoRA", "Full"])
def test_training_goes_on_while_a_checkpoint_of_the_step_before_is_stored(
    spec: dict[str, Any], train: Train, small_job: SmallJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(share, "SHARD_ELEMENTS", 1000)  # several objects
    train(small_job.write("whole", **spec))
    gate = Gate(monkeypatch, step=2)
    _, recorder = train(small_job.write("held-up", **spec), opens(gate, progressed_to(3)))
    order = [(event["kind"], event["step"]) for event in recorder.events if event["kind"] in ("progress", "checkpoint")]
    assert order.index(("progress", 3)) < order.index(("checkpoint", 2))
    assert contents(small_job, "held-up") == contents(small_job, "whole")
    assert small_job.metrics("held-up") == small_job.metrics("whole")


def test_no_checkpoint_is_left_out_where_the_store_is_slower_than_they_are_due(
    process_group: None, small_job: SmallJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune_trainer.build import build
    from finetune_trainer.loop import fit

    monkeypatch.setattr(commit, "NOTICEABLE", 0.0)
    monkeypatch.setattr("finetune_trainer.saving.PULSE_SECONDS", 0.05)
    gate = Gate(monkeypatch, step=2)
    recorder = opens(gate, lambda event: event.get("name") == "storing a checkpoint")
    moments = itertools.count(step=11.0)  # every look at the clock is 11 s later
    context = RunContext(0, 1, 0, 1, "cpu", None, recorder, recorder.stop, small_job.folder / "work")
    with build(load_job(small_job.write("small", **OFTEN)), context, lambda: next(moments)) as run:
        fit(run)
    assert gate.opened.is_set()  # by the sign of life of the rank that waits at step 4
    assert sorted(contents(small_job, "small")) == [2, 4, 6, 8, 10, 12]
    (said,) = [event for event in recorder.of("phase") if event["name"] == "waiting for the checkpoint store"]
    assert "step 4 waited" in str(said["detail"]) and "checkpoint of step 2" in str(said["detail"])
    assert "spec.checkpoint.everySteps" in str(said["detail"])


def test_a_store_that_fails_beside_training_ends_the_run_with_its_error_and_keeps_what_was_committed(
    train: Train, small_job: SmallJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = FileStore.create

    def fail(store: FileStore, key: str, *rest: Any, **more: Any) -> Any:
        if "/data/6-" in key:
            raise StorageError(f"cannot write {key}: the store is full")
        return create(store, key, *rest, **more)

    monkeypatch.setattr(FileStore, "create", fail)
    with pytest.raises(StorageError, match="the store is full"):
        train(small_job.write("small", **OFTEN))
    assert sorted(contents(small_job, "small")) == [2, 4]
    monkeypatch.undo()


def test_old_checkpoints_that_a_busy_store_does_not_delete_end_no_run_and_are_swept_later(
    train: Train, small_job: SmallJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"checkpoint": {"everySteps": 2, "keepLast": 1, "keepBest": 0}, **ONE_RANK}

    delete = FileStore.delete

    def fail(store: FileStore, keys: Iterable[str]) -> None:
        held = list(keys)
        if any("/data/" in key for key in held):
            raise StorageError(f"cannot delete {len(held)} objects: the store is overloaded")
        delete(store, held)

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "delete", fail)
        _, recorder = train(small_job.write("small", **few))
    assert [event["step"] for event in recorder.of("checkpoint")] == [2, 4, 6, 8, 10, 12]
    (said,) = [event for event in recorder.of("phase") if event["name"] == "keeping old checkpoints"]
    assert "the store is overloaded" in str(said["detail"])
    assert sorted(contents(small_job, "small")) == [12]
    folders = small_job.folder / "checkpoints" / "default.small" / "data"
    assert len(list(folders.iterdir())) > 1
    train(small_job.write("small", **few))
    assert len([path for path in folders.rglob("*") if path.suffix == ".safetensors" and "state" in path.name]) == 1


def test_without_memory_for_a_copy_training_waits_for_the_store_and_stores_the_same(
    train: Train, small_job: SmallJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(small_job.write("whole", **OFTEN))
    monkeypatch.setattr(staging, "available_bytes", lambda: 1000)
    _, recorder = train(small_job.write("scarce", **OFTEN))
    assert contents(small_job, "scarce") == contents(small_job, "whole")
    (said,) = [event for event in recorder.of("phase") if event["name"] == "saving without a copy"]
    assert "spec.workers.resources.memory" in str(said["detail"])


def test_a_stop_waits_for_the_save_that_goes_on_and_commits_its_own_step(
    train: Train, small_job: SmallJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune_trainer.errors import Stopped

    gate = Gate(monkeypatch, step=2)

    def react(event: Mapping[str, object], stop: StopSignal) -> None:
        if progressed_to(3)(event):
            stop.request("the test")
            gate.opened.set()

    path = small_job.write("small", **OFTEN)
    with pytest.raises(Stopped, match="stopped at step 4"):
        train(path, Recorder(react=react))
    entries = [entry for entry in log_of(small_job, "small").entries() if isinstance(entry, Checkpoint)]
    assert [entry.step for entry in entries] == [2, 4]
    assert [entry.parent for entry in entries] == [None, entries[0].seq]


def test_the_report_of_a_commit_says_how_long_training_waited_for_it(train: Train, small_job: SmallJob) -> None:
    _, recorder = train(small_job.write("small", **OFTEN))
    for event in recorder.of("checkpoint"):
        waited, seconds = event["waitedSeconds"], event["seconds"]
        assert isinstance(waited, float) and isinstance(seconds, float) and 0 <= waited <= seconds


def test_a_run_that_ended_well_leaves_nothing_in_memory(process_group: None, small_job: SmallJob) -> None:
    from finetune_trainer.loop import train as train_job

    recorder, memory = Recorder(), small_job.folder / "memory"
    context = RunContext(0, 1, 0, 1, "cpu", None, recorder, recorder.stop, small_job.folder / "work", staging=memory)
    train_job(load_job(small_job.write("small", **OFTEN)), context)
    assert [path for path in memory.rglob("*") if path.is_file()] == []
