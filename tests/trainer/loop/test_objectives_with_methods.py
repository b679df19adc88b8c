"""Objectives on what methods, added tokens and earlier adapters make of a model: whole runs of what meets there."""

from __future__ import annotations

import json
from math import log
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from finetune_trainer.errors import DataError
from finetune_trainer.prepare import prepare
from finetune_trainer.spec import load_job
from loop_runner import Train
from preference_data import Record, judged, pair, write
from small_job import SmallJob, make_small_job

TOKENS = {"addedTokens": ["<|im_end|>", " make", "<new>"]}
QLORA = {"type": "QLoRA"}
FULL = {"type": "Full", "lora": None}


def labelled(number: int) -> Record:
    one = pair(number)
    return {"text": one["chosen" if number % 2 else "rejected"][0]["content"], "label": ["wrong", "right"][number % 2]}


def chat(number: int) -> Record:
    return {"messages": pair(number)["prompt"], "label": ["even", "odd"][number % 2]}


RECORDS = {"DPO": pair, "KTO": judged, "Reward": pair, "Classification": labelled, "chat": chat}


def data(job: SmallJob, kind: str) -> None:
    for name, numbers in (("train", range(48)), ("eval", range(48, 60))):
        write(job.folder / f"{name}.jsonl", map(RECORDS[kind], numbers))


def short(job: SmallJob, name: str, kind: str, **spec: Any) -> Path:
    """Three steps on one rank; `spec` is merged in."""
    objective = {"type": kind} | spec.pop("objective", {})
    changes = {"data": {"maxLength": 256} | spec.pop("data", {}), "training": {"maxSteps": 3}}
    changes |= {"workers": {"replicas": 1, "gpusPerReplica": 0}, "evaluation": {"everySteps": 3}}
    return job.write(name, objective=objective, **changes, **spec)


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "the base with its embeddings as they were": (
        "DPO",
        {"model": TOKENS, "method": {"lora": {"modulesToSave": ["norm"]}}, "output": {"format": "Merged"}},
    ),
    "a copy with room for the tokens": ("DPO", {"model": TOKENS, "objective": {"dpo": {"reference": "Copy"}}}),
    "a copy beside all weights": ("KTO", {"model": TOKENS, "method": FULL}),
    "the base in four bits": ("KTO", {"method": QLORA}),
    "a copy in four bits": ("DPO", {"method": QLORA, "objective": {"dpo": {"reference": "Copy"}}}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_reference_is_the_model_that_training_begins_with(train: Train, small_job: SmallJob, case: str) -> None:
    kind, spec = CASES[case]
    data(small_job, kind)
    result, _ = train(short(small_job, "first", kind, **spec))
    assert result["baseLoss"] == pytest.approx(log(2) if kind == "DPO" else 0.5, abs=1e-6)
    assert result["evalLoss"] < result["baseLoss"]


def test_weights_of_four_bits_have_log_probabilities_of_their_own(train: Train, small_job: SmallJob) -> None:
    data(small_job, "DPO")
    objective = {"dpo": {"reference": "Precomputed"}}
    first, _ = train(short(small_job, "whole", "DPO", objective=dict(objective)))
    second, _ = train(short(small_job, "quantised", "DPO", objective=dict(objective), method=QLORA))
    assert (first["baseLoss"], second["baseLoss"]) == pytest.approx((log(2), log(2)), abs=1e-6)


def test_a_file_that_is_read_in_two_ways_has_no_precomputed_reference(train: Train, small_job: SmallJob) -> None:
    data(small_job, "DPO")
    write(small_job.folder / "train.jsonl", ({**pair(n), "other": pair(n + 1)["rejected"]} for n in range(48)))
    uri = f"file://{small_job.folder}/train.jsonl"
    train_twice = {"train": [{"uri": uri}, {"uri": uri, "columns": {"rejected": "other"}}]}
    objective = {"dpo": {"reference": "Precomputed"}}
    with pytest.raises(DataError, match=r"^spec\.data: .*/train\.jsonl is read with other columns a second time"):
        train(short(small_job, "two", "DPO", objective=objective, data=train_twice))


def test_a_head_that_is_new_stands_beside_four_bits_and_added_tokens(train: Train, small_job: SmallJob) -> None:
    data(small_job, "Classification")
    result, _ = train(
        short(small_job, "scores", "Classification", method=QLORA, model=TOKENS, output={"format": "Merged"})
    )
    assert result["evalLoss"] < result["baseLoss"]
    audit = json.loads((small_job.folder / "output" / "scores" / "audit.json").read_text())
    assert audit["mergeCheck"]["relativeDifference"] < 1e-5


def test_a_reward_model_begins_with_an_adapter_that_has_no_head(train: Train, small_job: SmallJob) -> None:
    training = {"maxSteps": 3}
    train(small_job.write("answers", workers={"replicas": 1}, training=training))
    data(small_job, "Reward")
    start = {"adapter": {"uri": f"file://{small_job.folder}/output/answers"}}
    goes_on, _ = train(short(small_job, "on", "Reward", model=start))
    start["adapter"]["use"] = "Merge"
    merged, _ = train(short(small_job, "merged", "Reward", model=start))
    assert goes_on["baseLoss"] == pytest.approx(merged["baseLoss"], rel=1e-5)
    assert "base_model.model.score.weight" in load_file(
        small_job.folder / "output" / "on" / "adapter_model.safetensors"
    )


def test_a_classifiers_adapter_goes_on_with_its_labels_only_in_their_order(train: Train, small_job: SmallJob) -> None:
    data(small_job, "Classification")
    train(short(small_job, "first", "Classification"))
    start = {"adapter": {"uri": f"file://{small_job.folder}/output/first"}}
    labels = {"classification": {"labels": ["wrong", "right"]}}
    with pytest.raises(DataError, match=r"adapter\.uri: .*/first scores right, wrong \(2 in all\), and this job wrong"):
        train(short(small_job, "other", "Classification", model=start, objective=labels))
    again, _ = train(short(small_job, "again", "Classification", model=start))
    assert again["evalLoss"] < again["baseLoss"]


def test_added_tokens_keep_the_embeddings_that_an_adapter_has_for_them(train: Train, small_job: SmallJob) -> None:
    first = {"addedTokens": ["<one>", "<two>"]}
    train(small_job.write("first", workers={"replicas": 1}, training={"maxSteps": 1}, model=first))
    start = {"adapter": {"uri": f"file://{small_job.folder}/output/first"}, "addedTokens": ["<two>", "<one>"]}
    with pytest.raises(DataError, match=r"^spec\.model\.addedTokens: '<two>' is token 320 here, and 321 of the adap"):
        train(small_job.write("swapped", workers={"replicas": 1}, training={"maxSteps": 1}, model=start))


def test_a_classifiers_template_need_not_answer(train: Train, tmp_path: Path) -> None:
    job = make_small_job(tmp_path)
    data(job, "chat")
    users = "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}<|im_end|>{% endif %}{% endfor %}"
    result, _ = train(short(job, "users", "Classification", model={"chatTemplate": users}))
    assert result["evalLoss"] is not None


def test_tokens_are_prepared_with_the_tokenizer_that_a_merged_adapter_brings(train: Train, small_job: SmallJob) -> None:
    small = {"workers": {"replicas": 1}, "training": {"maxSteps": 1}}
    train(small_job.write("first", model={"addedTokens": [" make"]}, **small))
    start = {"adapter": {"uri": f"file://{small_job.folder}/output/first", "use": "Merge"}}
    path = small_job.write("second", model=start, **small)
    assert not any(one.found for one in prepare(load_job(path), small_job.folder / "models"))
    _, recorder = train(path)
    assert any("2 of 2 sources in their token form" in str(event["detail"]) for event in recorder.of("phase"))
