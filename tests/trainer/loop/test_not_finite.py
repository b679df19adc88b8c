"""A loss that is no number: the step is skipped within its budget, committed and resumed over, and never the best."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from finetune_trainer.errors import Stopped
from loop_runner import Killed, Recorder, Train, kill_at_commit
from small_job import TIMES, SmallJob

SPOILED = "~"  # no record has it but those that a test spoils
EPOCH: dict[str, Any] = {
    "workers": {"replicas": 1, "gpusPerReplica": 0},
    "data": {"packing": "None"},  # its proof would meet the spoiled weights
    "training": {"maxSteps": None, "epochs": 1, "globalBatchSize": 16, "maxSkippedSteps": 1},
    "checkpoint": {"everySteps": 1},
    "evaluation": {"everySteps": 100},
}


def spoil(job: SmallJob, data: str, line: int) -> None:
    """Give one record a token whose embedding is infinite, so that every loss with it is no number."""
    token = Tokenizer.from_file(str(job.folder / "model" / "tokenizer.json")).token_to_id(SPOILED)
    weights = job.folder / "model" / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.embed_tokens.weight"][token] = torch.inf
    save_file(tensors, weights, metadata={"format": "pt"})
    lines = (job.folder / data).read_text().splitlines(keepends=True)
    lines[line] = lines[line].replace("?", SPOILED, 1)
    (job.folder / data).write_text("".join(lines))


def history(job: SmallJob, name: str) -> list[dict[str, Any]]:
    lines = (job.folder / "output" / name / "metrics.jsonl").read_text().splitlines()
    return [strict(line) for line in lines]


def strict(line: str) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    return {key: value for key, value in json.loads(line, parse_constant=refuse).items() if key not in TIMES}


@pytest.mark.parametrize("line", [70, 31], ids=["the first", "a later one"])
def test_a_skipped_step_is_committed_and_a_resume_goes_on_over_it(train: Train, small_job: SmallJob, line: int) -> None:
    spoil(small_job, "train.jsonl", line)
    result, recorder = train(small_job.write("whole", **EPOCH))
    records = history(small_job, "whole")
    (step,) = [record["step"] for record in records if record.get("loss", 0.0) is None]
    assert [event["step"] for event in recorder.of("checkpoint")] == list(range(1, 11))
    assert result["skippedSteps"] == 1
    assert result["verdict"] == "Improved"

    killed = small_job.write("killed", **EPOCH)
    with pytest.raises(Killed):
        train(killed, kill_at_commit(step))
    resumed, recorder = train(killed)
    assert [event["step"] for event in recorder.of("progress")] == list(range(step + 1, 11))
    assert (resumed["evalLoss"], resumed["skippedSteps"]) == (result["evalLoss"], 1)
    assert history(small_job, "killed") == records


def test_a_held_out_loss_that_is_not_finite_is_never_the_best_and_ends_patience(
    train: Train, small_job: SmallJob
) -> None:
    spoil(small_job, "eval.jsonl", 3)
    evaluation = {"everySteps": 2, "earlyStopping": {"patience": 2}}
    path = small_job.write("small", **EPOCH | {"evaluation": evaluation})
    with pytest.raises(Stopped, match="stopped at step 2 "):
        train(path, Recorder(stop_after=1))
    result, recorder = train(path)
    assert (result["step"], result["exportedStep"], result["skippedSteps"]) == (4, 4, 0)
    assert (result["best"], result["evalLoss"], result["baseLoss"], result["verdict"]) == (None, None, None, None)
    assert [event["best"] for event in recorder.of("eval")] == [False, False]
    losses = [(record["step"], record["evalLoss"]) for record in history(small_job, "small") if "evalLoss" in record]
    assert losses == [(0, None), (2, None), (4, None)]
    assert "| held-out | - | - |" in (small_job.folder / "output" / "small" / "README.md").read_text()
