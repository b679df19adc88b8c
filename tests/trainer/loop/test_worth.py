"""Whether training was worth it, asked of whole runs: where it was, where it cannot be, and across stops."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.errors import DataError, Stopped
from loop_runner import Recorder, Train
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
    assert means["tuned"] > 0.9 > 0.7 > max(means["base"], means["prompted"])
    found = evaluation(tasks, "learnt")["verdict"]
    assert 0 < found["gain"]["low"] < found["gain"]["difference"] < found["gain"]["high"]
    assert found["records"] == 60
    assert [event["text"] for event in recorder.of("verdict")] == [found["text"]]
    assert found["text"] in (tasks.folder / "output" / "learnt" / "README.md").read_text()
