"""Short runs of the examples, on small models and data: each gets better at what it is for."""

from __future__ import annotations

import json
from math import log
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_trainer.errors import DataError, Stopped
from loop_runner import Recorder, Train
from preference_data import judged, make_preference_job, pair, write
from small_job import SmallJob, make_small_job

EXAMPLES = Path(__file__).parents[3] / "examples"
STEPS = 16


def manifest(small: SmallJob, example: str, **training: Any) -> Path:
    """An example of the repository on the model and data of the small job, for a few large steps."""
    document = yaml.safe_load((EXAMPLES / f"{example}.yaml").read_text())
    spec = document["spec"]
    spec["model"] = {"uri": f"file://{small.folder}/model"}
    spec["data"]["train"][0]["uri"] = f"file://{small.folder}/train.jsonl"
    spec["data"]["eval"][0]["uri"] = f"file://{small.folder}/eval.jsonl"
    spec["data"]["maxLength"] = 128
    del spec["training"]["epochs"]
    spec["training"] |= {"maxSteps": STEPS, "learningRate": 0.01, "microBatchSize": 4} | training
    spec["checkpoint"] = {"uri": f"file://{small.folder}/checkpoints", "everySteps": 4}
    spec["evaluation"] = {"everySteps": 8}
    spec["output"]["uri"] = f"file://{small.folder}/output/{example}"
    path = small.folder / f"{example}.yaml"
    path.write_text(json.dumps(document))
    return path


def evaluations(small: SmallJob, example: str) -> list[dict[str, Any]]:
    return [record for record in small.metrics(example) if "evalLoss" in record]


@pytest.mark.parametrize("example", ["dpo", "orpo"])
def test_pairs_held_out_are_told_apart_better_than_before(example: str, train: Train, tmp_path: Path) -> None:
    small = make_preference_job(tmp_path, "DPO")
    train(manifest(small, example))
    base, *_, last = evaluations(small, example)
    assert last["evalLoss"] < 0.9 * base["evalLoss"]
    accuracy, margin = "eval/held-out/rewards/accuracy", "eval/held-out/rewards/margin"
    assert last[accuracy] > 0.95 and last[margin] > base[margin]
    assert base[accuracy] == 0 if example == "dpo" else base[accuracy] < 0.9
    steps = [record for record in small.metrics(example) if "loss" in record]
    assert all(-1e9 < step["rewards/margin"] < 1e9 for step in steps)


def test_judged_answers_held_out_move_apart(train: Train, tmp_path: Path) -> None:
    small = make_preference_job(tmp_path, "KTO")
    train(manifest(small, "kto"))
    base, *_, last = evaluations(small, "kto")
    assert last["evalLoss"] < 0.9 * base["evalLoss"]
    assert last["eval/held-out/rewards/chosen"] > last["eval/held-out/rewards/rejected"]


def test_a_stopped_run_goes_on_with_the_log_probabilities_that_it_began_with(train: Train, tmp_path: Path) -> None:
    small = make_preference_job(tmp_path, "DPO")
    path = manifest(small, "dpo")
    with pytest.raises(Stopped, match="stopped at step 6"):
        train(path, Recorder(stop_after=5))
    kept = {found: found.read_bytes() for found in (small.folder / "checkpoints" / "reference").iterdir()}
    assert len(kept) == 2  # training data and held-out set
    train(path)
    assert {found: found.read_bytes() for found in kept} == kept
    stopped = small.metrics("dpo")
    (small.folder / "again").mkdir()
    again = make_preference_job(small.folder / "again", "DPO")
    train(manifest(again, "dpo"))
    assert again.metrics("dpo") == stopped


def test_log_probabilities_that_are_gone_are_not_computed_from_trained_weights(train: Train, tmp_path: Path) -> None:
    small = make_preference_job(tmp_path, "DPO")
    path = manifest(small, "dpo")
    with pytest.raises(Stopped):
        train(path, Recorder(stop_after=5))
    victim = min((small.folder / "checkpoints" / "reference").iterdir())
    victim.write_bytes(victim.read_bytes()[:-1] + b"\x07")
    with pytest.raises(DataError, match=f"{victim.name} is gone or damaged"):
        train(path)


def test_answers_of_one_kind_are_refused_before_the_first_step(train: Train, tmp_path: Path) -> None:
    small = make_preference_job(tmp_path, "KTO")
    write(small.folder / "train.jsonl", (judged(number) | {"label": True} for number in range(40)))
    with pytest.raises(DataError, match="all of the first 40 answers are desirable, and KTO needs both kinds"):
        train(manifest(small, "kto"))


def test_pairs_of_equal_answers_and_pairs_too_long_are_left_out_and_counted(train: Train, tmp_path: Path) -> None:
    small = make_preference_job(tmp_path, "DPO")
    records = [pair(number) for number in range(60)]
    records[7] |= {"rejected": records[7]["chosen"]}
    records[9]["chosen"][0]["content"] *= 30
    write(small.folder / "train.jsonl", records)
    path = manifest(small, "dpo")
    document = json.loads(path.read_text())
    document["spec"]["data"]["badRecords"] = {"maxRatio": 0.1}
    document["spec"]["training"]["maxSteps"] = 2
    path.write_text(json.dumps(document))
    _, recorder = train(path)
    (audit,) = recorder.of("audit")
    counts: Any = audit["counts"]
    assert (counts["records"], counts["bad"], counts["dropped"]) == (60, 1, 1)
    assert counts["documents"] == 2 * 59  # the bad record's place is taken by another


def test_behind_another_run_the_reference_is_what_that_run_trained(train: Train, tmp_path: Path) -> None:
    small = make_preference_job(tmp_path, "DPO")
    first = make_small_job(tmp_path / "first")
    write(first.folder / "train.jsonl", (json.loads(line) for line in (first.folder / "eval.jsonl").open()))
    one_rank = {"workers": {"replicas": 1, "gpusPerReplica": 0}, "model": {"uri": f"file://{small.folder}/model"}}
    train(first.write("sft", method={"lora": {"rank": 16, "alpha": 32}}, **one_rank))
    path = manifest(small, "dpo")
    document = json.loads(path.read_text())
    start = {"uri": f"file://{first.folder}/checkpoints/default.sft", "which": "latest"}
    document["spec"]["model"]["checkpoint"] = start
    del document["spec"]["objective"]["dpo"]["reference"]
    document["spec"]["training"]["maxSteps"] = 1
    path.write_text(json.dumps(document))
    train(path)
    base, _ = evaluations(small, "dpo")
    assert base["evalLoss"] == pytest.approx(log(2), rel=1e-6)  # no answer has gained anything on the reference yet
    assert base["eval/held-out/rewards/margin"] == pytest.approx(0, abs=1e-6)
    assert "perplexity" not in (small.folder / "output" / "dpo" / "README.md").read_text()
