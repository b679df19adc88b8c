"""Whether training was worth it, for objectives that are no language modelling."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.context import StopSignal
from finetune_trainer.errors import Stopped
from loop_runner import Recorder, Train
from preference_data import make_preference_job, write
from ranks import run_ranks
from small_job import SmallJob, make_small_job

WORD = {"even": "two", "odd": "one"}
ONE_RANK: dict[str, Any] = {"workers": {"replicas": 1, "gpusPerReplica": 0}}
LEARNS: dict[str, Any] = {"training": {"maxSteps": 24, "globalBatchSize": 8, "microBatchSize": 8}}
CLASSIFIER: dict[str, Any] = {**ONE_RANK, **LEARNS, "objective": {"type": "Classification"}}
COMPARED: dict[str, Any] = {"evaluation": {"everySteps": 12, "samples": 60}}


def text_of(number: int) -> dict[str, Any]:
    """A text with a word that tells its label, of which one is twice as frequent."""
    label = "odd" if number % 3 == 0 else "even"
    return {"text": f"the word {WORD[label]} of {number}", "label": label}


@pytest.fixture
def texts(tmp_path: Path) -> SmallJob:
    """A small classifier's job."""
    job = make_small_job(tmp_path, records=8)
    write(job.folder / "train.jsonl", map(text_of, range(160)))
    write(job.folder / "eval.jsonl", map(text_of, range(200, 260)))
    return job


def evaluation(job: SmallJob, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((job.folder / "output" / name / "evaluation.json").read_text())
    return found


def test_the_verdict_on_a_classifier_is_honest_both_ways(train: Train, texts: SmallJob) -> None:
    learnt, recorder = train(texts.write("learnt", **CLASSIFIER | COMPARED))
    found = evaluation(texts, "learnt")["verdict"]
    assert (found["outcome"], found["metric"], found["records"]) == ("Improved", "accuracy", 60)
    assert found["tuned"] == learnt["evalMetrics"]["held-out"]["accuracy"] > 0.9
    assert found["base"] == pytest.approx(learnt["baseMetrics"]["held-out"]["accuracy"])
    assert found["constant"] == pytest.approx(2 / 3)
    assert [event["text"] for event in recorder.of("verdict")] == [learnt["verdictText"]]
    assert learnt["verdictText"] in (texts.folder / "output" / "learnt" / "README.md").read_text()

    records = [text_of(number) for number in range(220)]
    labels = [record["label"] for record in records]
    random.Random(1).shuffle(labels)
    shuffled = [record | {"label": label} for record, label in zip(records, labels, strict=True)]
    write(texts.folder / "train.jsonl", shuffled[:160])
    write(texts.folder / "eval.jsonl", shuffled[160:])
    result, _ = train(texts.write("shuffled", **CLASSIFIER | COMPARED))
    assert result["verdict"] == "NotImproved"
    assert "did not beat giving every record the same answer" in result["verdictText"]


def test_held_out_texts_of_a_classifier_that_are_trained_on_are_found(train: Train, texts: SmallJob) -> None:
    write(texts.folder / "eval.jsonl", map(text_of, range(20)))
    path = texts.write(**CLASSIFIER | {"training": {"maxSteps": 2}})
    beside, recorder = texts.folder / "checkpoints" / "default.small", Recorder(stop_after=1)
    with pytest.raises(Stopped):
        train(path, recorder)
    (said,) = [event["detail"] for event in recorder.of("phase") if event["name"] == "contamination"]
    assert said == "held-out: 20 equal and 0 resemble one, of 20"
    result, _ = train(path)
    assert result["contaminated"] == {"held-out": 20}
    for folder in (beside, texts.folder / "output" / "small"):
        (found,) = json.loads((folder / "audit.json").read_text())["contamination"]
        assert (found["name"], found["exact"], found["records"]) == ("held-out", 20, 20)
    page = (texts.folder / "output" / "small" / "report.html").read_text()
    assert "20 equal a training record" in page
    assert page.count("20 are training records too") == 1


@pytest.mark.parametrize("kind", ["DPO", "KTO"])
def test_preferences_are_compared_by_their_own_loss_also_after_a_stop_in_the_export(
    train: Train, tmp_path: Path, kind: str
) -> None:
    job = make_preference_job(tmp_path, kind)
    options = {"dpo": {"reference": "Precomputed"}} if kind == "DPO" else {}
    spec = {**ONE_RANK, **COMPARED, "objective": {"type": kind, **options}}
    spec |= {"training": {"maxSteps": 12, "learningRate": 0.01}, "data": {"maxLength": 128}}

    def stop(event: Any, signal: StopSignal) -> None:
        if event["kind"] == "phase" and event["name"] == "exporting":
            signal.request("the test")

    path = job.write("small", **spec)
    recorder = Recorder(react=stop)
    with pytest.raises(Stopped, match="stopped during the export"):
        train(path, recorder)
    result, again = train(path)
    assert [event["text"] for event in recorder.of("verdict") + again.of("verdict")] == [result["verdictText"]] * 2
    found = evaluation(job, "small")
    assert (result["verdict"], found["verdict"]["metric"], found["verdict"]["records"]) == ("Improved", "loss", 24)
    assert found["verdict"]["base"] == pytest.approx(result["baseLoss"], rel=1e-4)
    assert found["verdict"]["tuned"] == pytest.approx(result["evalLoss"], rel=1e-4)
    assert f"in held-out {kind} loss" in result["verdictText"]
    assert found["forgetting"][0]["name"] == "general text"
    card = (job.folder / "output" / "small" / "README.md").read_text()
    page = (job.folder / "output" / "small" / "report.html").read_text()
    assert f"Mean loss of objective {kind} by" in card
    for text in (result["verdictText"], page):
        assert "erplexity" not in text
        assert "nats per trained token" not in text


@pytest.mark.slow
def test_two_ranks_with_partitioned_weights_judge_records_as_one_does(train: Train, tmp_path: Path) -> None:
    job = make_preference_job(tmp_path, "ORPO")
    spec: dict[str, Any] = {"objective": {"type": "ORPO"}, "data": {"maxLength": 128}}
    spec |= {"method": {"type": "Full", "lora": None}, "output": {"format": "Full"}, "training": {"maxSteps": 1}}
    spec["evaluation"] = {"everySteps": None, "samples": 7}
    train(job.write("one", **spec | ONE_RANK))
    path = job.write("two", **spec | {"deepspeed": {"zeroStage": 3}})
    payload = {"job": str(path), "workdir": str(job.folder / "work-two")}
    two, same = run_ranks(2, "tests/trainer/ranks_train.py:train", payload)
    assert two == same
    before = [job.measured_before(name) for name in ("one", "two")]
    losses, scores = ([found["sets"]["held-out"]["base"][kind] for found in before] for kind in ("losses", "scores"))
    assert scores[1] == scores[0]
    assert len(scores[0]["rewards/accuracy"]) == len(losses[0]) == 7
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert before[1]["forgetting"] == pytest.approx(before[0]["forgetting"], rel=1e-6)
