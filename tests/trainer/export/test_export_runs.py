"""Whole runs on two ranks: what they export is loaded by plain transformers and peft and has the loss they reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_trainer.export.publish import CLAIM, MANIFEST
from finetune_trainer.store import Quarantine, RunLog, open_store
from ranks import run_ranks
from s3_bucket import Bucket
from small_job import SmallJob, make_small_job
from small_run import damage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FULL = {"type": "Full", "lora": None}
DIVERGING = {"maxSteps": 6, "learningRate": 0.5, "schedule": {"type": "Constant", "warmupRatio": 0.0}}


def run(job: SmallJob, **spec: Any) -> dict[str, Any]:
    """Train and export on two ranks; both must return the same result."""
    payload = {"job": str(job.write(**spec)), "workdir": str(job.folder / "work")}
    one, other = run_ranks(2, "tests/trainer/ranks_train.py:train", payload, timeout=400)
    assert one == other
    return one


@torch.no_grad()
def plain_loss(model: Any, tokenizer: Any, data: Path) -> float:
    """Mean loss over the tokens of all answers and their end, record by record, with nothing of the product."""
    total, count = 0.0, 0
    for line in data.read_text().splitlines():
        messages = json.loads(line)["messages"]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        prompt = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
        end = text.rindex("<|im_end|>") + len("<|im_end|>")
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        trained = torch.tensor([start >= len(prompt) and stop <= end for start, stop in encoded["offset_mapping"]])
        ids = torch.tensor([encoded["input_ids"]])
        logits = model.eval()(input_ids=ids).logits[0, :-1].double()
        losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        total += float(losses[trained[1:]].sum())
        count += int(trained[1:].sum())
    return total / count


def load(kind: Any, folder: Path) -> tuple[Any, Any]:
    return kind.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)


def test_adapter_of_a_zero2_run_has_the_reported_loss(tmp_path: Path) -> None:
    job = make_small_job(tmp_path)
    result = run(job)
    folder = tmp_path / "output" / "small"
    weights = load_file(folder / "adapter_model.safetensors")
    assert len(weights) == 2 * 7 * 2
    assert all(value.abs().sum() > 0 for value in weights.values())
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in weights
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        tmp_path / "model"
    )

    tuned, tokenizer = load(AutoPeftModelForCausalLM, folder)
    loss = plain_loss(tuned, tokenizer, tmp_path / "eval.jsonl")
    assert loss == pytest.approx(result["evalLoss"], rel=1e-5)
    base, _ = load(AutoModelForCausalLM, tmp_path / "model")
    assert plain_loss(base, tokenizer, tmp_path / "eval.jsonl") == pytest.approx(result["baseLoss"], rel=1e-5)
    attached = PeftModel.from_pretrained(base, str(folder))
    assert plain_loss(attached, tokenizer, tmp_path / "eval.jsonl") == pytest.approx(loss, rel=1e-6)

    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end in json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert result["verdict"] == "Improved"
    assert json.loads((folder / "audit.json").read_text())["result"] == result
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 13))
    assert list((folder / "tensorboard").iterdir())
    assert f"{result['evalLoss']:.4f}" in (folder / "README.md").read_text()
    assert not (tmp_path / "work" / "export").exists()


def test_merged_weights_of_a_lora_run_are_a_plain_model_with_the_reported_loss(tmp_path: Path) -> None:
    job = make_small_job(tmp_path)
    result = run(job, output={"format": "Merged"})
    folder = tmp_path / "output" / "small"
    assert not list(folder.glob("adapter*"))
    model, tokenizer = load(AutoModelForCausalLM, folder)
    assert plain_loss(model, tokenizer, tmp_path / "eval.jsonl") == pytest.approx(result["evalLoss"], rel=1e-5)
    assert result["evalLoss"] < result["baseLoss"]
    audit = json.loads((folder / "audit.json").read_text())
    check = audit["mergeCheck"]
    assert check["checked"]
    assert check["relativeDifference"] <= check["tolerance"] < check["adapterEffect"]
    assert audit["result"] == result


def test_best_state_of_a_zero3_run_goes_to_s3_once_whatever_happens(tmp_path: Path, bucket: Bucket) -> None:
    job = make_small_job(tmp_path, kind="llama-tied")
    spec = {
        "method": FULL,
        "deepspeed": {"zeroStage": 3},
        "training": DIVERGING,
        "evaluation": {"everySteps": 2},
        "checkpoint": {"everySteps": 2, "keepLast": 1},
        "output": {"uri": f"{bucket.uri}/models/tuned"},
    }
    result = run(job, **spec)
    assert result["exportedStep"] == result["best"]["step"] < result["step"]
    folder = download(bucket, "models/tuned/", tmp_path / "downloaded")
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    model, tokenizer = load(AutoModelForCausalLM, folder)
    loss = plain_loss(model, tokenizer, tmp_path / "eval.jsonl")
    assert loss == pytest.approx(result["evalLoss"], rel=1e-5)
    assert loss == pytest.approx(result["best"]["loss"], rel=1e-5)

    before = stamps(bucket)
    assert run(job, **spec) == result
    assert stamps(bucket) == before

    crash_before_the_manifest(bucket, "models/tuned/")
    assert run(job, **spec) == result
    again = download(bucket, "models/tuned/", tmp_path / "again")
    assert not (again / CLAIM).exists()
    assert {ref["key"] for ref in json.loads((again / MANIFEST).read_text())["files"]} == names(again) - {MANIFEST}
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert stamps(bucket)["models/tuned/model.safetensors"] == before["models/tuned/model.safetensors"]

    log = damage_checkpoint(tmp_path / "checkpoints", result["exportedStep"])
    spec["output"] = {"uri": f"{bucket.uri}/models/elsewhere"}
    assert run(job, **spec)["exportedStep"] == result["step"]
    assert [entry.target for entry in log.entries() if isinstance(entry, Quarantine)]


def damage_checkpoint(folder: Path, step: int) -> RunLog:
    log = RunLog(open_store(f"file://{folder}"), "default.small")
    entry = next(entry for entry in log.checkpoints() if entry.step == step)
    damage(log.journal.store, entry.objects[0], "flipped")
    return log


def crash_before_the_manifest(bucket: Bucket, prefix: str) -> None:
    """What a process leaves that dies when one file is not there yet, and another not as its next start makes it."""
    manifest = json.loads(bucket.client.get_object(Bucket=bucket.name, Key=prefix + MANIFEST)["Body"].read())
    announced = {"export": manifest["export"], "files": [ref["key"] for ref in manifest["files"]]}
    bucket.client.put_object(Bucket=bucket.name, Key=prefix + CLAIM, Body=json.dumps(announced).encode())
    bucket.client.put_object(Bucket=bucket.name, Key=prefix + "audit.json", Body=b"{}")
    for name in (MANIFEST, "tokenizer.json"):
        bucket.client.delete_object(Bucket=bucket.name, Key=prefix + name)


def objects(bucket: Bucket) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = bucket.client.list_objects_v2(Bucket=bucket.name).get("Contents", [])
    return found


def stamps(bucket: Bucket) -> dict[str, Any]:
    return {item["Key"]: item["LastModified"] for item in objects(bucket)}


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def download(bucket: Bucket, prefix: str, folder: Path) -> Path:
    for item in objects(bucket):
        path = folder / item["Key"].removeprefix(prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        bucket.client.download_file(bucket.name, item["Key"], str(path))
    return folder
