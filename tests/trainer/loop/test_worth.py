"""Whether training was worth it, asked of whole runs: where it was, where it cannot be, and across stops."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

from finetune_trainer.errors import DataError, Stopped
from finetune_trainer.evaluation.metrics.words import TokenF1
from loop_runner import Recorder, Train
from ranks import run_ranks
from small_job import WORDS, SmallJob, make_small_job

GOOD = set(WORDS[::2])
FULL: dict[str, Any] = {"method": {"type": "Full", "lora": None}, "output": {"format": "Full"}}
ONE_RANK: dict[str, Any] = {"workers": {"replicas": 1, "gpusPerReplica": 0}}
COMPARED = {"everySteps": None, "samples": 60, "shots": 2}
CHOICE = [{"type": "Choice", "choices": ["yes", "no"]}]


def task(word: str, filler: str, right: bool) -> dict[str, Any]:
    """Whether a word is a good one: the same for every filler, so that it can be learnt."""
    question = {"role": "user", "content": f"What do {filler} and {word} make?"}
    return {"messages": [question, {"role": "assistant", "content": "yes" if right else "no"}]}


def write_task(job: SmallJob, *, seed: int, learnable: bool) -> None:
    """320 training and 60 held-out records; where nothing can be learnt, their answers are shuffled."""
    draws = random.Random(seed)
    for name, count in (("train", 320), ("eval", 60)):
        words = [WORDS[number % len(WORDS)] for number in range(count)]
        answers = [word in GOOD for word in words]
        if not learnable:
            draws.shuffle(answers)
        records = [task(word, draws.choice(WORDS), right) for word, right in zip(words, answers, strict=True)]
        text = "".join(json.dumps(record) + "\n" for record in records)
        (job.folder / f"{name}.jsonl").write_text(text)


def manifest(job: SmallJob, name: str, model: Path, **spec: Any) -> Path:
    evaluated = [{"name": "held-out", "uri": f"file://{job.folder}/eval.jsonl", "metrics": CHOICE}]
    whole = {
        **FULL,
        **ONE_RANK,
        "model": {"uri": f"file://{model}"},
        "data": {"eval": evaluated, "maxLength": 48, "packing": "None", "contamination": "Ignore"},
        "training": {"maxSteps": 60, "globalBatchSize": 32, "microBatchSize": 32, "learningRate": 0.005},
        "evaluation": COMPARED,
    }
    return job.write(name, **whole | spec)


def evaluation(job: SmallJob, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((job.folder / "output" / name / "evaluation.json").read_text())
    return found


@pytest.fixture
def tasks(train: Train, tmp_path: Path) -> SmallJob:
    """A job whose model in `output/taught` answers yes or no, at random."""
    job = make_small_job(tmp_path)
    write_task(job, seed=1, learnable=False)
    train(manifest(job, "taught", tmp_path / "model", evaluation={"samples": 0, "everySteps": None}))
    return job


def test_the_verdict_is_honest_both_ways(train: Train, tasks: SmallJob) -> None:
    taught = tasks.folder / "output" / "taught"
    write_task(tasks, seed=2, learnable=False)
    shuffled, _ = train(manifest(tasks, "shuffled", taught))
    write_task(tasks, seed=2, learnable=True)
    learnt, recorder = train(manifest(tasks, "learnt", taught))

    assert shuffled["verdict"] == "NotImproved"
    assert "did not beat" in shuffled["verdictText"]
    assert learnt["verdict"] == "Improved"
    means = learnt["metrics"]["held-out"]["choice"]
    assert means["tuned"] > 0.9
    assert max(means["base"], means["prompted"]) < 0.7
    found = evaluation(tasks, "learnt")["verdict"]
    assert 0 < found["gain"]["low"] < found["gain"]["difference"] < found["gain"]["high"]
    assert found["records"] == 60
    assert [event["text"] for event in recorder.of("verdict")] == [found["text"]]
    assert found["text"] in (tasks.folder / "output" / "learnt" / "README.md").read_text()


SHORT: dict[str, Any] = {**ONE_RANK, "training": {"maxSteps": 4}, "checkpoint": {"everySteps": 2}}


def asked(job: SmallJob, *metrics: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The data of a small job, with metrics."""
    return {"eval": [{"name": "held-out", "uri": f"file://{job.folder}/eval.jsonl", "metrics": list(metrics)}]} | more


def test_what_was_measured_before_the_first_step_outlives_a_stop(train: Train, small_job: SmallJob) -> None:
    spec = {**SHORT, "data": asked(small_job, {"type": "RougeL"}), "evaluation": {"samples": 12, "maxNewTokens": 8}}
    whole, _ = train(small_job.write("whole", **spec))
    path = small_job.write("stopped", **spec)
    with pytest.raises(Stopped):
        train(path, Recorder(stop_after=2))
    resumed, _ = train(path)
    assert resumed["verdictText"] == whole["verdictText"]
    assert evaluation(small_job, "stopped") == evaluation(small_job, "whole")


def test_answers_are_those_of_transformers_own_generation_one_by_one(train: Train, small_job: SmallJob) -> None:
    spec = {"data": asked(small_job, {"type": "TokenF1"}), "evaluation": {"samples": 24, "maxNewTokens": 12}}
    result, _ = train(small_job.write("small", **ONE_RANK, **spec))
    model = AutoPeftModelForCausalLM.from_pretrained(small_job.folder / "output" / "small").eval()
    tokenizer = AutoTokenizer.from_pretrained(small_job.folder / "output" / "small")

    def answer(messages: list[dict[str, Any]]) -> str:
        text = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
        inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        made = model.generate(**inputs, do_sample=False, max_new_tokens=12)
        return str(tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)).strip()

    records = [json.loads(line)["messages"] for line in (small_job.folder / "eval.jsonl").read_text().splitlines()]
    answers = [answer(messages) for messages in records]
    shown = evaluation(small_job, "small")["samples"]
    assert [sample["tuned"] for sample in shown] == answers[: len(shown)]
    with model.disable_adapter():
        assert [sample["base"] for sample in shown] == [answer(messages) for messages in records[: len(shown)]]
    scores = [TokenF1().score(text, messages[1]["content"]) for text, messages in zip(answers, records, strict=True)]
    assert result["metrics"]["held-out"]["tokenF1"]["tuned"] == pytest.approx(sum(scores) / len(scores))


def test_settings_of_the_models_folder_do_not_change_what_is_generated(train: Train, small_job: SmallJob) -> None:
    spec = {**SHORT, "evaluation": {"samples": 4, "maxNewTokens": 8, "shots": 0}}
    train(small_job.write("plain", **spec))
    settings = {"do_sample": True, "temperature": 5.0, "repetition_penalty": 9.0, "min_new_tokens": 8}
    (small_job.folder / "model" / "generation_config.json").write_text(json.dumps(settings))
    train(small_job.write("strange", **spec))
    assert evaluation(small_job, "strange")["samples"] == evaluation(small_job, "plain")["samples"]


@pytest.mark.slow
def test_two_ranks_with_partitioned_weights_measure_what_one_does(train: Train, small_job: SmallJob) -> None:
    spec: dict[str, Any] = {
        **FULL,
        "data": asked(small_job, {"type": "RougeL"}),
        "training": {"maxSteps": 1},
        "evaluation": {"samples": 5, "maxNewTokens": 4, "shots": 1, "everySteps": None},
    }
    one, _ = train(small_job.write("one", **spec | ONE_RANK))
    path = small_job.write("two", **spec | {"deepspeed": {"zeroStage": 3}})
    payload = {"job": str(path), "workdir": str(small_job.folder / "work-two")}
    two, same = run_ranks(2, "tests/trainer/ranks_train.py:train", payload)
    assert two == same
    before = [small_job.measured_before(name) for name in ("one", "two")]
    losses = [found["sets"]["held-out"]["base"].pop("losses") for found in before]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert before[1]["forgetting"] == pytest.approx(before[0]["forgetting"], rel=1e-6)
    assert before[1]["sets"]["held-out"]["base"] == before[0]["sets"]["held-out"]["base"]
    assert two["metrics"]["held-out"]["rougeL"] == pytest.approx(one["metrics"]["held-out"]["rougeL"], abs=1e-6)
    assert two["forgetting"] == pytest.approx(one["forgetting"], abs=1e-4)


def test_a_metric_that_needs_a_field_that_the_data_lacks_is_refused_before_the_first_step(
    train: Train, small_job: SmallJob
) -> None:
    recorder = Recorder()
    spec = {**SHORT, "data": asked(small_job, {"type": "JsonFields", "fields": ["total"]}), "evaluation": COMPARED}
    with pytest.raises(
        DataError, match=r"spec\.data\.eval\[0\]\.metrics\[0\]: JsonFields .*eval\.jsonl#1: .*no JSON ob"
    ):
        train(small_job.write("small", **spec), recorder)
    assert recorder.of("progress") == recorder.of("eval") == []


def test_held_out_records_that_are_trained_on_end_the_run_where_that_is_asked_for(
    train: Train, small_job: SmallJob
) -> None:
    lines = (small_job.folder / "train.jsonl").read_text().splitlines()
    (small_job.folder / "eval.jsonl").write_text("\n".join(lines[:20]))
    recorder = Recorder()
    with pytest.raises(
        DataError, match=r"spec\.data\.eval\[0\]: 20 of the 20 records .*eval\.jsonl#1 of .*train\.jsonl#"
    ):
        train(small_job.write("small", **SHORT, data={"contamination": "Fail"}), recorder)
    assert recorder.of("progress") == []
    result, _ = train(small_job.write("small", **SHORT, evaluation={"samples": 20, "shots": 0}))
    assert result["contaminated"] == {"held-out": 20}
    assert "20 of 20 held-out records are training records too" in result["verdictText"]


def test_texts_are_compared_by_their_loss_and_nothing_is_generated(train: Train, small_job: SmallJob) -> None:
    for name in ("train", "eval"):
        path = small_job.folder / f"{name}.jsonl"
        records = [json.loads(line)["messages"][1]["content"] for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in records))
    spec = {"objective": {"type": "CPT"}, "evaluation": {"samples": 24}}
    result, _ = train(small_job.write("texts", **SHORT, **spec))
    found = evaluation(small_job, "texts")
    assert (found["verdict"]["metric"], found["verdict"]["against"], found["samples"]) == ("loss", "base", [])
    assert result["verdict"] == found["verdict"]["outcome"] == "Improved"
    assert result["evalPerplexities"]["held-out"] == pytest.approx(math.exp(result["evalLoss"]))


def test_without_the_base_the_metrics_of_the_trained_model_are_told_and_no_verdict(
    train: Train, small_job: SmallJob
) -> None:
    spec = {**SHORT, "data": asked(small_job, {"type": "TokenF1"})}
    path = small_job.write("small", **spec, evaluation={"samples": 12, "compareBase": False, "maxNewTokens": 8})
    result, _ = train(path)
    assert result["verdict"] is None
    assert result["metrics"]["held-out"]["tokenF1"].keys() == {"base", "prompted", "tuned"}
    assert result["metrics"]["held-out"]["tokenF1"]["base"] is None
    assert "was not evaluated" in (small_job.folder / "output" / "small" / "README.md").read_text()


def test_a_set_that_training_is_not_about_counts_as_forgetting_alone(train: Train, small_job: SmallJob) -> None:
    aside = {"name": "aside", "uri": f"file://{small_job.folder}/train.jsonl"}
    data = asked(small_job)
    data["eval"].append(aside)
    evaluation_of = {"samples": 12, "everySteps": 2, "shots": 0, "forgetting": {"sample": False, "sets": ["aside"]}}
    result, recorder = train(small_job.write("small", **SHORT, data=data, evaluation=evaluation_of))
    assert result["evalLoss"] == pytest.approx(result["evalLosses"]["held-out"])
    assert [one["name"] for one in evaluation(small_job, "small")["sets"]] == ["held-out"]
    change = result["evalLosses"]["aside"] - result["baseLosses"]["aside"]
    assert result["forgetting"] == {"aside": pytest.approx(change)}
    assert result["evalLoss"] in [event["evalLoss"] for event in recorder.of("eval")]
