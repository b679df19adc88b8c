"""Whole runs of every method: killed and gone on bit for bit, and started from what an earlier one has exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import AutoTokenizer

from finetune_trainer.errors import DataError, StorageError
from finetune_trainer.initial_adapter import NAME
from loop_runner import Killed, Recorder, Train, kill_at_commit
from ranks import run_ranks
from small_job import SmallJob

SHORT: dict[str, Any] = {
    "workers": {"replicas": 1, "gpusPerReplica": 0},
    "training": {"maxSteps": 4},
    "checkpoint": {"everySteps": 2},
    "evaluation": {"everySteps": 2},
}
PISSA = {"method": {"lora": {"initialization": "PiSSA"}}}
OLORA = {"method": {"lora": {"initialization": "OLoRA"}}}
BF16 = {"training": {"precision": "BF16"}}
MERGED = {"output": {"format": "Merged"}}
PART = {"method": {"type": "Full", "lora": None, "full": {"train": ["layers.1", "norm"], "freeze": ["*q_proj*"]}}}

CASES: dict[str, tuple[dict[str, Any], ...]] = {
    "PiSSA in BF16": (PISSA, BF16, MERGED),
    "OLoRA with rsLoRA and LoRA+": (OLORA, {"method": {"lora": {"rslora": True, "learningRateRatio": 4.0}}}),
    "QLoRA with DoRA, stage 0": ({"method": {"type": "QLoRA", "lora": {"dora": True}}, "deepspeed": {"zeroStage": 0}},),
    "QLoRA in BF16": ({"method": {"type": "QLoRA"}}, BF16, MERGED),
    "a part of the weights": (PART,),
    "added tokens and a whole module": (
        {"model": {"addedTokens": ["<|im_end|>", " make", "<new>"]}, "method": {"lora": {"modulesToSave": ["norm"]}}},
        MERGED,
    ),
}


def merged(*parts: dict[str, Any]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            known = whole.get(name)
            whole[name] = merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return whole


def write(job: SmallJob, name: str, *parts: dict[str, Any]) -> Path:
    return job.write(name, **merged(SHORT, *parts))


def weights(job: SmallJob, name: str) -> dict[str, torch.Tensor]:
    """Everything that a run has exported, by name."""
    files = sorted((job.folder / "output" / name).glob("*.safetensors"))
    return {key: value for file in files for key, value in load_file(file).items()}


def start(job: SmallJob, name: str, use: str = "Continue") -> dict[str, Any]:
    return {"model": {"adapter": {"uri": f"file://{job.folder}/output/{name}", "use": use}}}


@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_goes_on_bit_for_bit(train: Train, small_job: SmallJob, case: str) -> None:
    whole, _ = train(write(small_job, "whole", *CASES[case]))
    path = write(small_job, "killed", *CASES[case])
    with pytest.raises(Killed):
        train(path, kill_at_commit(2))
    result, recorder = train(path)
    assert [event["step"] for event in recorder.of("progress")] == [3, 4]
    assert (result["loss"], result["evalLoss"]) == (whole["loss"], whole["evalLoss"])
    assert result["evalLoss"] < result["baseLoss"]
    found, wanted = weights(small_job, "killed"), weights(small_job, "whole")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_part_of_the_weights_is_what_changes(train: Train, small_job: SmallJob) -> None:
    train(write(small_job, "part", PART))
    before, after = load_file(small_job.folder / "model" / "model.safetensors"), weights(small_job, "part")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    second = {name for name in before if name.startswith("model.layers.1.") and "q_proj" not in name}
    norms = {name for name in before if name in ("model.norm.weight",)}
    assert changed == second | norms


def test_a_pattern_that_names_no_weight_is_refused_with_what_is_near(train: Train, small_job: SmallJob) -> None:
    full = {"method": {"type": "Full", "lora": None, "full": {"freeze": ["embed_token"]}}}
    with pytest.raises(Exception, match=r"method\.full\.freeze: names no weight of this model: write embed_tokens"):
        train(write(small_job, "near", full))
    everything = {"method": {"type": "Full", "lora": None, "full": {"freeze": ["*"]}}}
    with pytest.raises(Exception, match=r"spec\.method\.full\.freeze: leaves nothing to train"):
        train(write(small_job, "nothing", everything))


def test_a_started_run_needs_what_its_adapters_began_as(train: Train, small_job: SmallJob) -> None:
    path = write(small_job, "first", PISSA)
    with pytest.raises(Killed):
        train(path, kill_at_commit(2))
    kept = small_job.folder / "checkpoints" / "default.first" / NAME
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(content)
    with pytest.raises(StorageError, match=rf"{NAME} is not as it was stored"):
        train(path)


def test_another_run_starts_from_a_checkpoint_with_what_that_ones_adapters_began_as(
    train: Train, small_job: SmallJob
) -> None:
    first, _ = train(write(small_job, "first", PISSA))
    folder = small_job.folder / "checkpoints"
    where = {"model": {"checkpoint": {"uri": f"file://{folder}/default.first"}}, "training": {"seed": 9}}
    second, _ = train(write(small_job, "second", PISSA, where))
    assert second["baseLoss"] == pytest.approx(first["evalLoss"], rel=1e-6)
    assert (folder / "default.first" / NAME).read_bytes() == (folder / "default.second" / NAME).read_bytes()
    with pytest.raises(DataError, match=r"spec\.method\.lora\.initialization: is OLoRA, and .* with PiSSA: write that"):
        from finetune_trainer.spec import load_job
        from finetune_trainer.starting_point import check_start

        check_start(load_job(write(small_job, "third", OLORA, where)))


@pytest.mark.parametrize("use", ["Continue", "Merge"])
def test_an_exported_adapter_is_where_the_next_stage_begins(train: Train, small_job: SmallJob, use: str) -> None:
    first, _ = train(write(small_job, "first"))
    path = write(small_job, "second", start(small_job, "first", use), {"training": {"seed": 9}})
    second, recorder = train(path)
    assert second["baseLoss"] == pytest.approx(first["evalLoss"], rel=1e-6)
    assert second["evalLoss"] < first["evalLoss"]
    assert "should begin without effect" not in str(recorder.of("audit"))
    output = small_job.folder / "output" / "second"
    origin = json.loads((output / "audit.json").read_text())["lineage"]["adapter"]
    assert (origin["use"], origin["madeBy"]["run"], origin["madeBy"]["step"]) == (use, "default.first", 4)
    card = (output / "README.md").read_text()
    words = "trained on" if use == "Continue" else "merged into it first"
    assert f"`file://{small_job.folder}/output/first`, {words}, SHA-256" in card
    assert "made by the run `default.first`, step 4" in card
    assert "| set | starting adapter | this model |" in card
    assert (output / "adapter_model.safetensors").exists() == (use == "Continue")


def test_two_ranks_that_share_the_weights_begin_with_the_same_adapter(train: Train, small_job: SmallJob) -> None:
    first, _ = train(write(small_job, "first"))
    shared = {"workers": {"replicas": 2}, "deepspeed": {"zeroStage": 3}, "training": {"maxSteps": 1}}
    path = write(small_job, "second", start(small_job, "first"), shared)
    payload = {"job": str(path), "workdir": str(small_job.folder / "work")}
    for result in run_ranks(2, "tests/trainer/ranks_train.py:train", payload):
        assert result["baseLoss"] == pytest.approx(first["evalLoss"], rel=1e-6)


def test_a_merged_output_is_a_model_for_the_next_stage_and_is_named_as_such(train: Train, small_job: SmallJob) -> None:
    added = {"model": {"addedTokens": ["<new>"]}}
    first, _ = train(write(small_job, "first", MERGED, added))
    model = {"model": {"uri": f"file://{small_job.folder}/output/first", **added["model"]}}
    second, _ = train(write(small_job, "second", model))
    assert second["baseLoss"] == pytest.approx(first["evalLoss"], rel=1e-6)
    lineage = json.loads((small_job.folder / "output" / "second" / "audit.json").read_text())["lineage"]
    assert lineage["base"]["madeBy"]["run"] == "default.first"


def test_added_tokens_reach_the_exported_tokenizer_and_model(train: Train, small_job: SmallJob) -> None:
    text = (small_job.folder / "train.jsonl").read_text()
    (small_job.folder / "train.jsonl").write_text(text.replace("make", "<sum>"))
    train(write(small_job, "tokens", {"model": {"addedTokens": ["<sum>"]}}, {"evaluation": {"everySteps": 4}}))
    folder = small_job.folder / "output" / "tokens"
    load: Any = AutoTokenizer.from_pretrained
    tokenizer = load(folder)
    known = len(load(small_job.folder / "model"))
    assert tokenizer("one <sum>", add_special_tokens=False)["input_ids"][-1] == known
    load = AutoPeftModelForCausalLM.from_pretrained
    tuned = load(folder, dtype=torch.float32)
    assert tuned.get_input_embeddings().weight.shape[0] == known + 1
    rows = load_file(folder / "adapter_model.safetensors")["base_model.model.model.embed_tokens.token_adapter"
                                                           ".trainable_tokens_delta"]  # fmt: skip
    assert rows.shape[0] == 1
    mean = load_file(small_job.folder / "model" / "model.safetensors")["model.embed_tokens.weight"].mean(0)
    assert (rows[0] - mean).abs().max() > 1e-4  # it was in the data, and has learnt
    assert torch.isfinite(tuned(input_ids=torch.tensor([[known, 5]])).logits).all()


OTHER: dict[str, tuple[dict[str, Any], str]] = {
    "another rank": (
        {"method": {"lora": {"rank": 8}}},
        r"^spec\.method\.lora\.rank: is 8, and the adapter at .*/output/first has 4: write that",
    ),
    "another alpha": (
        {"method": {"lora": {"alpha": 9}}},
        r"^spec\.method\.lora\.alpha: is 9, and .* has 8: write that",
    ),
    "DoRA": ({"method": {"lora": {"dora": True}}}, r"^spec\.method\.lora\.dora: is true, and .* has false: write that"),
    "other modules": (
        {"method": {"lora": {"targetModules": ["q_proj"]}}},
        r"^spec\.method\.lora\.targetModules: the adapter at .* it has .*down_proj.*not train: write \['down_proj', ",
    ),
}


@pytest.mark.parametrize("case", OTHER)
def test_an_adapter_of_another_shape_is_refused_before_any_step(
    train: Train, small_job: SmallJob, tmp_path_factory: pytest.TempPathFactory, case: str
) -> None:
    from finetune_trainer.model.adapter_folder import look
    from finetune_trainer.spec import load_job

    change, message = OTHER[case]
    train(write(small_job, "first", {"training": {"maxSteps": 1}, "checkpoint": {"everySteps": 1}}))
    path = write(small_job, "second", start(small_job, "first"), change)
    recorder = Recorder()
    with pytest.raises(DataError, match=message):
        look(load_job(path))
        train(path, recorder)
    assert recorder.of("progress") == []


def test_a_folder_without_adapter_or_with_one_for_other_weights_is_refused(train: Train, small_job: SmallJob) -> None:
    from finetune_trainer.model.adapter_folder import look
    from finetune_trainer.spec import load_job

    where = {"model": {"adapter": {"uri": f"file://{small_job.folder}/model"}}}
    with pytest.raises(
        DataError, match=r"^spec\.model\.adapter\.uri: .*/model has no adapter_config\.json .*model\.uri"
    ):
        look(load_job(write(small_job, "none", where)))
    train(write(small_job, "first", {"training": {"maxSteps": 1}, "checkpoint": {"everySteps": 1}}))
    config = small_job.folder / "output" / "first" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"init_lora_weights": "pissa"}))
    with pytest.raises(DataError, match=r'has init_lora_weights: "pissa", which cannot be started from'):
        look(load_job(write(small_job, "second", start(small_job, "first"))))
    shutil.rmtree(small_job.folder / "output")
