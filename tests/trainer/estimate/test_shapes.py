"""Sizes read from a configuration, against the models that transformers builds from it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

import tiny_models
from finetune_trainer.estimate import UnknownArchitecture, known_shape, read_shape
from finetune_trainer.estimate.activations import CHUNK_ELEMENTS
from finetune_trainer.estimate.known import KNOWN
from finetune_trainer.estimate.setup import Setup
from finetune_trainer.estimate.state import count
from finetune_trainer.model import cross_entropy
from reference import job

KINDS = ("llama", "llama-tied", "mistral-window", "qwen3", "gemma2", "gemma3", "mixtral", "qwen3-moe")


def config_of(kind: str) -> dict[str, Any]:
    """What a model of that kind has in its config.json, with all defaults."""
    found: dict[str, Any] = json.loads(tiny_models.CONFIGS[kind]().to_json_string(use_diff=False))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_counted_as_transformers_makes_them(kind: str) -> None:
    assert read_shape(config_of(kind)).parameters == sum(one.numel() for one in tiny_models.build(kind).parameters())


@pytest.mark.parametrize(
    "config",
    [
        transformers.Qwen2Config(hidden_size=64, num_hidden_layers=2, vocab_size=96, intermediate_size=80),
        transformers.GemmaConfig(hidden_size=64, num_hidden_layers=2, vocab_size=96, intermediate_size=80, head_dim=16),
        transformers.Phi3Config(
            hidden_size=64, num_hidden_layers=2, vocab_size=96, intermediate_size=80, pad_token_id=0
        ),
        transformers.LlamaConfig(
            hidden_size=64, num_hidden_layers=2, vocab_size=96, attention_bias=True, mlp_bias=True
        ),
    ],
    ids=lambda config: str(config.model_type),
)
def test_so_are_those_of_other_families(config: Any) -> None:
    from_config: Any = transformers.AutoModelForCausalLM.from_config
    with torch.device("meta"):
        model = from_config(config)
    shape = read_shape(json.loads(config.to_json_string(use_diff=False)))
    assert shape.parameters == sum(one.numel() for one in model.parameters())


@pytest.mark.parametrize("targets", [["all-linear"], ["q_proj", "v_proj"], ["model.layers.1.*.down_proj"]])
def test_adapters_are_counted_as_peft_makes_them(targets: list[str]) -> None:
    manifest = job(2, "LoRA")
    lora = manifest.spec.method.lora
    assert lora is not None
    chosen = lora.model_copy(update={"target_modules": tuple(targets)})
    method = manifest.spec.method.model_copy(update={"lora": chosen})
    manifest = manifest.model_copy(update={"spec": manifest.spec.model_copy(update={"method": method})})
    found = count(read_shape(config_of("llama")), Setup.of(manifest, 2, on_gpu=False))
    pattern: Any = {"all-linear": "all-linear", "q_proj": ["q_proj", "v_proj"]}.get(
        targets[0], r".*layers\.1\..*down_proj"
    )
    adapted = get_peft_model(tiny_models.build("llama"), LoraConfig(r=4, target_modules=pattern))
    assert found.trainable == sum(one.numel() for one in adapted.parameters() if one.requires_grad)
    assert found.total == sum(one.numel() for one in adapted.parameters())


def test_known_models_have_the_parameters_that_they_are_known_by() -> None:
    """Totals as on the models' pages on the hub."""
    totals = {
        "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
        "meta-llama/Llama-3.3-70B-Instruct": 70_553_706_496,
        "meta-llama/Llama-3.2-1B": 1_235_814_400,
        "Qwen/Qwen2.5-0.5B": 494_032_768,
        "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
        "Qwen/Qwen3-8B": 8_190_735_360,
        "Qwen/Qwen3-30B-A3B": 30_532_122_624,
        "mistralai/Mistral-7B-v0.3": 7_248_023_552,
        "mistralai/Mixtral-8x7B-v0.1": 46_702_792_704,
        "google/gemma-2-9b": 9_241_705_984,
        "google/gemma-3-1b-it": 999_885_952,
        "microsoft/Phi-3-mini-4k-instruct": 3_821_079_552,
        "microsoft/phi-4": 14_659_507_200,
        "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
    }
    shapes = {name: known_shape(f"hf://{name}@main") for name in totals}
    assert {name: shape and shape.parameters for name, shape in shapes.items()} == totals
    assert all(known_shape(f"hf://{name}") for name in KNOWN)


def test_other_addresses_are_not_known() -> None:
    assert known_shape("hf://somebody/else") is None
    assert known_shape("s3://models/meta-llama/Llama-3.1-8B") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "model_type 'mamba' has no formula"),
        ({"hidden_size": None}, "hidden_size is None"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
    ],
)
def test_what_cannot_be_estimated_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownArchitecture, match=message):
        read_shape(config_of("llama") | change)


def test_a_missing_size_is_named() -> None:
    config = config_of("llama")
    del config["intermediate_size"]
    with pytest.raises(UnknownArchitecture, match="has no intermediate_size"):
        read_shape(config)


def test_the_work_space_of_the_loss_is_that_of_the_loss() -> None:
    assert CHUNK_ELEMENTS == cross_entropy.CHUNK_ELEMENTS
