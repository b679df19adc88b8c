"""The loop from manifest to export on one rank: resume, walk-back, stopping, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune_trainer.errors import DataError, SpecError, Stopped, StorageError
from finetune_trainer.loop import Diverged
from finetune_trainer.store import CorruptObject, Quarantine, RunLog, open_store
from loop_runner import Recorder, Train
from small_job import SmallJob

ONE_RANK: dict[str, Any] = {"workers": {"replicas": 1, "gpusPerReplica": 0}}


def log_of(job: SmallJob, name: str) -> RunLog:
    return RunLog(open_store(f"file://{job.folder}/checkpoints"), f"default.{name}")


def stop_at(train: Train, path: Path, step: int) -> None:
    """The stop travels with the loss, so it takes effect one step after the event that asks for it."""
    with pytest.raises(Stopped, match=f"stopped at step {step}"):
        train(path, Recorder(stop_after=step - 1))


def test_a_stopped_run_goes_on_exactly_where_it_was(train: Train, small_job: SmallJob) -> None:
    train(small_job.write("whole", **ONE_RANK))
    stopped = small_job.write("stopped", **ONE_RANK)
    stop_at(train, stopped, 6)  # between a step and its evaluation
    stop_at(train, stopped, 9)
    result, _ = train(stopped)
    assert result["step"] == 12
    assert small_job.metrics("stopped") == small_job.metrics("whole")


def test_a_damaged_checkpoint_is_quarantined_and_the_one_before_it_is_used(train: Train, small_job: SmallJob) -> None:
    train(small_job.write("whole", **ONE_RANK))
    path = small_job.write("damaged", **ONE_RANK)
    stop_at(train, path, 8)
    newest = log_of(small_job, "damaged").checkpoints()[-1]
    assert newest.step == 8
    victim = small_job.folder / "checkpoints" / max(newest.objects, key=lambda ref: ref.size).key
    damaged = bytearray(victim.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    victim.write_bytes(damaged)
    _, recorder = train(path)
    (resuming,) = [event for event in recorder.of("phase") if event["name"] == "resuming"]
    assert (str(resuming["detail"]).split(",")[0], resuming["step"]) == ("step 6", 6)
    (told,) = [event for event in recorder.of("phase") if "damaged" in event]
    assert told["damaged"] == 8 and victim.name in str(told["detail"])
    entries = log_of(small_job, "damaged").entries()
    assert [entry.target for entry in entries if isinstance(entry, Quarantine)] == [newest.seq]
    assert small_job.metrics("damaged") == small_job.metrics("whole")


def test_where_every_checkpoint_is_damaged_a_run_begins_anew_and_on_no_part_of_one(
    train: Train, small_job: SmallJob
) -> None:
    train(small_job.write("whole", **ONE_RANK))
    path = small_job.write("damaged", **ONE_RANK)
    stop_at(train, path, 8)
    kept = log_of(small_job, "damaged").checkpoints()
    assert len(kept) > 1
    for entry in kept:
        victim = small_job.folder / "checkpoints" / max(entry.objects, key=lambda ref: ref.size).key
        victim.write_bytes(victim.read_bytes()[:-8] + bytes(8))
    with pytest.raises(CorruptObject, match="no checkpoint is left to go on from"):
        train(path)
    result, recorder = train(path)
    assert [event["step"] for event in recorder.of("progress")] == list(range(1, 13))
    assert result["step"] == 12
    assert small_job.metrics("damaged") == small_job.metrics("whole")


def test_a_finished_run_is_recognised_and_trains_no_further(train: Train, small_job: SmallJob) -> None:
    path = small_job.write("small", **ONE_RANK)
    first, _ = train(path)
    again, recorder = train(path)
    assert again == first
    assert recorder.of("progress") == []


def test_the_best_checkpoint_is_exported_and_the_base_model_compared(train: Train, small_job: SmallJob) -> None:
    result, recorder = train(small_job.write("small", evaluation={"everySteps": 2}, **ONE_RANK))
    evaluations = {event["step"]: event["evalLoss"] for event in recorder.of("eval")}
    trained = {step: loss for step, loss in evaluations.items() if step != 0}
    assert result["baseLoss"] == evaluations[0]
    assert result["exportedStep"] == min(trained, key=lambda step: (trained[step], step))


def test_patience_ends_a_run_that_does_not_improve(train: Train, small_job: SmallJob) -> None:
    frozen = {"learningRate": 1e-12}
    evaluation = {"everySteps": 2, "earlyStopping": {"patience": 2}}
    result, _ = train(small_job.write("small", training=frozen, evaluation=evaluation, **ONE_RANK))
    assert result["step"] < 12


def test_another_job_in_the_same_place_is_refused_by_naming_what_differs(train: Train, small_job: SmallJob) -> None:
    stop_at(train, small_job.write("small", **ONE_RANK), 3)
    other = small_job.write("small", training={"learningRate": 0.001}, **ONE_RANK)
    with pytest.raises(SpecError) as refusal:
        train(other)
    assert [problem.path for problem in refusal.value.problems] == ["spec.training.learningRate"]
    assert "0.005" in str(refusal.value)


def test_data_that_changed_since_the_commit_is_refused(train: Train, small_job: SmallJob) -> None:
    path = small_job.write("small", **ONE_RANK)
    stop_at(train, path, 3)
    data = small_job.folder / "train.jsonl"
    data.write_text("".join(reversed(data.read_text().splitlines(keepends=True))))
    with pytest.raises(DataError, match="put the old files back"):
        train(path)


def test_a_loss_that_is_not_finite_ends_the_run_with_step_and_samples_named(train: Train, small_job: SmallJob) -> None:
    weights = small_job.folder / "model" / "model.safetensors"
    tensors = load_file(weights)
    tensors["lm_head.weight"] = torch.full_like(tensors["lm_head.weight"], 3e38)
    save_file(tensors, weights, metadata={"format": "pt"})
    data = {"packing": "None", "eval": None}
    path = small_job.write("small", data=data, evaluation=None, training={"maxSkippedSteps": 1}, **ONE_RANK)
    with pytest.raises(Diverged, match=r"step 2: .*maxSkippedSteps.*train\.jsonl#"):
        train(path)


def test_bad_records_within_the_budget_are_quarantined_with_reason(train: Train, small_job: SmallJob) -> None:
    data = small_job.folder / "train.jsonl"
    lines = data.read_text().splitlines(keepends=True)
    lines[3] = '{"messages": [{"role": "user", "content": "and?"}, {"role": "assistant", "content": ""}]}\n'
    data.write_text("".join(lines))
    result, _ = train(small_job.write("small", data={"badRecords": {"maxRatio": 0.05}}, **ONE_RANK))
    stored = (small_job.folder / "checkpoints" / "default.small" / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line)["record"].endswith("train.jsonl#4") for line in stored] == [True]
    assert result["quarantined"] == 1


def test_more_bad_records_than_allowed_end_the_run_before_it_trains_on_them(train: Train, small_job: SmallJob) -> None:
    data = small_job.folder / "train.jsonl"
    data.write_text(data.read_text() + '{"messages": "none"}\n')
    with pytest.raises(DataError, match=r"train\.jsonl#161.*repair them, or raise the ratio"):
        train(small_job.write("small", **ONE_RANK))


def test_an_output_folder_of_another_run_is_refused_before_training(train: Train, small_job: SmallJob) -> None:
    train(small_job.write("small", **ONE_RANK))
    other = small_job.write("other", output={"uri": f"file://{small_job.folder}/output/small"}, **ONE_RANK)
    recorder = Recorder()
    with pytest.raises(StorageError, match=r"spec\.output\.uri"):
        train(other, recorder)
    assert recorder.of("progress") == []
