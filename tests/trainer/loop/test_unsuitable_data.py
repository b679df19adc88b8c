"""Data that the job cannot be trained or judged on ends the run before its first step, with the field named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_trainer.errors import DataError
from loop_runner import Recorder, Train
from small_job import SmallJob

ONE_RANK: dict[str, Any] = {"workers": {"replicas": 1, "gpusPerReplica": 0}}


def refused(train: Train, job: SmallJob, message: str, **spec: Any) -> None:
    recorder = Recorder()
    with pytest.raises(DataError, match=message):
        train(job.write("small", **spec, **ONE_RANK), recorder)
    assert recorder.of("progress") == []


def test_texts_are_not_fine_tuned_on_because_nobody_named_the_format(train: Train, small_job: SmallJob) -> None:
    (small_job.folder / "train.jsonl").write_text(json.dumps({"text": "What do one and two make?"}) + "\n")
    refused(train, small_job, r"spec\.data\.train\[0\]\.format: Auto finds Text records in .*train\.jsonl")


def test_held_out_chats_are_no_texts_to_judge_continued_pre_training_by(train: Train, small_job: SmallJob) -> None:
    (small_job.folder / "train.jsonl").write_text(json.dumps({"text": "What do one and two make?"}) + "\n")
    message = r"spec\.data\.eval\[0\]\.format: Auto finds Messages records in .*eval\.jsonl"
    refused(train, small_job, message, objective={"type": "CPT"})
