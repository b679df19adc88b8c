"""What is counted as trained and as quantised, against the models that the trainer's own functions make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import tiny_models
from finetune_trainer.estimate import GPUS, Hardware, ModelShape, Setup, estimate, read_shape, refusal
from finetune_trainer.estimate.activations import Activations
from finetune_trainer.estimate.fit import changes, least
from finetune_trainer.estimate.memory import held
from finetune_trainer.estimate.state import Counts, Place, count
from finetune_trainer.estimate.trained import live
from finetune_trainer.estimate.work import work
from finetune_trainer.model.load import load_model
from finetune_trainer.model.lora import apply_lora
from finetune_trainer.model.partial import freeze
from finetune_trainer.model.quantize import quantization
from finetune_trainer.spec import FineTuneJob, parse_job

GIB = 2**30
KINDS = ("llama", "llama-tied", "mistral-window", "qwen3", "gemma2", "gemma3", "mixtral", "qwen3-moe")


def shape_of(kind: str, **options: Any) -> ModelShape:
    """The shape of a small model."""
    return read_shape(json.loads(tiny_models.CONFIGS[kind](**options).to_json_string(use_diff=False)))


def manifest(method: dict[str, Any], **parts: Any) -> FineTuneJob:
    """A job with that method; each part stands in place of the section of the spec that it is named like."""
    spec: dict[str, Any] = {
        "model": {"uri": "s3://models/a"},
        "method": method,
        "objective": {"type": "SFT"},
        "data": {"train": [{"uri": "s3://data/*.jsonl"}], "maxLength": 512},
        "training": {"maxSteps": 2, "globalBatchSize": 4, "learningRate": 1e-4, "precision": "FP32"},
        "deepspeed": {"zeroStage": 2},
        "checkpoint": {"uri": "s3://ckpt/a", "everySteps": 2},
        "output": {"uri": "s3://models/b"},
        "workers": {"replicas": 1, "gpusPerReplica": 1},
    }
    document = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "a"}}
    return parse_job(json.dumps({**document, "spec": spec | parts}))


def counted(shape: ModelShape | int, job: FineTuneJob) -> Counts:
    """What the estimate counts on one GPU."""
    return count(shape, Setup.of(job, 1, on_gpu=True))


def sizes(model: torch.nn.Module) -> tuple[int, int]:
    """Elements of all parameters, and of those with a gradient."""
    found = list(model.parameters())
    return sum(one.numel() for one in found), sum(one.numel() for one in found if one.requires_grad)


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_has_the_name_and_size_that_transformers_gives_it(kind: str) -> None:
    model = tiny_models.build(kind)
    assert dict(shape_of(kind).weights()) == {name: one.numel() for name, one in model.named_parameters()}


@pytest.mark.parametrize(
    ("kind", "full"),
    [
        ("llama", {"train": ["model.layers.1.*"]}),
        ("llama", {"freeze": ["embed_tokens", "lm_head"]}),
        ("llama", {"train": ["lm_head", "norm"]}),
        ("llama-tied", {"freeze": ["lm_head"]}),
        ("qwen3", {"train": ["self_attn", "*.mlp.up_proj.weight"], "freeze": ["q_norm"]}),
        ("qwen3-moe", {"freeze": ["experts"]}),
    ],
)
def test_of_partial_full_fine_tuning_only_what_patterns_name(kind: str, full: dict[str, Any]) -> None:
    job, model = manifest({"type": "Full", "full": full}), tiny_models.build(kind)
    assert job.spec.method.full is not None
    freeze(model, job.spec.method.full)
    found = counted(shape_of(kind), job)
    assert (found.total, found.trainable) == sizes(model)


@pytest.mark.parametrize(
    ("kind", "lora"),
    [
        ("llama", {"rank": 4, "perModule": [{"modules": ["q_proj"], "rank": 7}, {"modules": ["*1*proj"], "rank": 2}]}),
        ("llama", {"rank": 4, "dora": True}),
        ("llama", {"rank": 4, "modulesToSave": ["lm_head", "norm"]}),
        ("llama-tied", {"rank": 4, "targetModules": ["q_proj"], "modulesToSave": ["model.layers.1.mlp"]}),
        ("mixtral", {"rank": 4, "perModule": [{"modules": ["down_proj"], "rank": 2}]}),
    ],
)
@pytest.mark.parametrize("added", [0, 3])
def test_of_adapters_all_that_trains_beside_them(kind: str, lora: dict[str, Any], added: int) -> None:
    tokens = [f"<{number}>" for number in range(added)]
    job = manifest({"type": "LoRA", "lora": lora}, model={"uri": "s3://models/a", "addedTokens": tokens})
    assert job.spec.method.lora is not None
    model, _ = apply_lora(tiny_models.build(kind), job.spec.method.lora, 0, list(range(10, 10 + added)))
    found = counted(shape_of(kind), job)
    assert (found.total, found.trainable) == sizes(model)


@pytest.mark.parametrize("method", [{"type": "Full"}, {"type": "LoRA", "lora": {"rank": 4}}])
@pytest.mark.parametrize("kind", ["llama", "llama-tied"])
def test_of_a_classifier_its_head_and_no_output_embedding(kind: str, method: dict[str, Any]) -> None:
    labels = ["bad", "good", "odd"]
    job = manifest(method, objective={"type": "Classification", "classification": {"labels": labels}})
    build: Any = transformers.AutoModelForSequenceClassification.from_config
    model = build(tiny_models.CONFIGS[kind](num_labels=3))
    if job.spec.method.lora is not None:
        model, _ = apply_lora(model, job.spec.method.lora, 0)
    found = counted(shape_of(kind), job)
    assert (found.total, found.trainable) == sizes(model)


def test_of_weights_in_4_bits_those_that_bitsandbytes_packs(tmp_path: Path) -> None:
    """Biases and both embeddings stay as they are; two weights lie in a byte."""
    job = manifest({"type": "QLoRA"}, training={"maxSteps": 1, "globalBatchSize": 1, "learningRate": 1e-4})
    assert job.spec.method.qlora is not None
    folder = tiny_models.save("llama", tmp_path / "model", attention_bias=True, hidden_size=64)
    model = load_model(
        folder,
        dtype=torch.float32,
        quantization=quantization(job.spec.method.qlora, torch.float32, torch.device("cpu")),
    )
    packed = sum(2 * one.numel() for one in model.parameters() if one.dtype == torch.uint8)
    assert counted(shape_of("llama", attention_bias=True, hidden_size=64), job).quantised == packed > 0


def test_simple_quantisation_has_wider_scales() -> None:
    shape = shape_of("llama")
    job = manifest({"type": "QLoRA"})
    plain = manifest({"type": "QLoRA", "qlora": {"doubleQuantization": False}})
    weights = [held_weights(shape, one) for one in (job, plain)]
    packed = counted(shape, job).quantised
    assert weights[1] - weights[0] == pytest.approx(packed * (4 / 64 - 1 / 64 - 4 / (64 * 256)), abs=2)


def held_weights(shape: ModelShape | int, job: FineTuneJob) -> int:
    """Bytes of weights on one GPU."""
    setup = Setup.of(job, 1, on_gpu=True)
    return held(count(shape, setup), setup, Place.DEVICE)["weights"]


@pytest.mark.parametrize("kind", ["DPO", "KTO"])
def test_a_second_model_is_held_whole_whatever_the_method(kind: str) -> None:
    shape = shape_of("llama")
    options = {"type": kind, kind.lower(): {"reference": "Copy"}}
    job = manifest({"type": "QLoRA"}, objective=options)
    setup = Setup.of(job, 1, on_gpu=True)
    assert held(count(shape, setup), setup, Place.DEVICE)["reference model"] == 4 * shape.parameters
    alone = Setup.of(manifest({"type": "QLoRA"}, objective={"type": kind}), 1, on_gpu=True)
    assert "reference model" not in held(count(shape, alone), alone, Place.DEVICE)


@pytest.mark.parametrize(
    ("method", "objective", "most"),
    [
        ({"type": "Full", "full": {"train": ["*bias"]}}, {"type": "SFT"}, 4.0),
        ({"type": "QLoRA"}, {"type": "SFT"}, 0.57),
        ({"type": "LoRA"}, {"type": "Reward"}, 2.0),
    ],
)
def test_of_an_unknown_architecture_no_more_is_asked_for_than_is_sure(
    method: dict[str, Any], objective: dict[str, Any], most: float
) -> None:
    """In bytes for each of its parameters, beside CUDA's context."""
    parameters = 10**10
    found = least(parameters, Setup.of(manifest(method, objective=objective), 1, on_gpu=True))
    assert found <= most * parameters + GIB


def test_freezing_most_of_a_model_is_not_refused() -> None:
    shape = shape_of("llama", hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, vocab_size=128256)
    gpu = Hardware("H100", 79 * GIB)
    training = {"maxSteps": 2, "globalBatchSize": 4, "learningRate": 1e-4, "precision": "BF16"}
    assert refusal(manifest({"type": "Full"}, training=training), shape, gpu) is not None
    last = manifest({"type": "Full", "full": {"train": ["model.layers.31", "lm_head"]}}, training=training)
    assert refusal(last, shape, gpu) is None
    found = estimate(last, shape, gpu)
    assert found.checkpoint == 12 * found.counts.trainable < 12 * found.counts.total / 4
    assert refusal(manifest({"type": "Full", "full": {"freeze": ["norm"]}}, training=training), shape, gpu) is not None


def test_layers_before_the_first_one_that_trains_keep_nothing() -> None:
    shape = shape_of("llama", num_hidden_layers=8)
    layers = {
        "model.layers.6.*": 2,
        "lm_head": 0,
        "embed_tokens": 8,
    }
    jobs = {one: manifest({"type": "Full", "full": {"train": [one]}}) for one in layers}
    assert {one: live(shape, Setup.of(job, 1, on_gpu=True)).layers for one, job in jobs.items()} == layers


def test_no_change_is_proposed_that_the_rules_refuse() -> None:
    """Stage 3 and what needs it, for QLoRA, added tokens, a second model and PiSSA; QLoRA for PiSSA."""
    shape = shape_of("llama")
    for method, parts in (
        ({"type": "QLoRA"}, {}),
        ({"type": "LoRA"}, {"model": {"uri": "s3://models/a", "addedTokens": ["<a>"]}}),
        ({"type": "LoRA"}, {"objective": {"type": "DPO", "dpo": {"reference": "Copy"}}}),
        ({"type": "LoRA", "lora": {"initialization": "PiSSA"}}, {}),
    ):
        setup = Setup.of(manifest(method, **parts), 2, on_gpu=True)
        texts = [change.text for change in changes(shape, setup, GPUS[0].memory)]
        assert texts
        assert [text for text in texts if "zeroStage: 3" in text] == []
        assert ("method.type: QLoRA" in texts) == (parts != {})


def test_the_answers_of_a_pair_share_the_length_of_a_row() -> None:
    shape = shape_of("llama")
    data = {"train": [{"uri": "s3://data/*.jsonl"}], "maxLength": 512, "packing": "None"}
    job = manifest({"type": "LoRA"}, objective={"type": "DPO"}, data=data)
    setup = Setup.of(job, 1, on_gpu=True)
    assert setup.rows == 2 * setup.micro_batch
    assert Activations.of(shape, setup).kept == 512
    assert work(job, shape, setup, None, None).tokens_per_step == 4 * 512
