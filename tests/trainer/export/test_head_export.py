"""What is exported of a classifier loads in plain transformers and peft, with its labels, and says the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig

import tiny_models
from finetune_trainer.engine.collectives import ControlGroup
from finetune_trainer.export.adapter import export_adapter
from finetune_trainer.export.full import export_full
from finetune_trainer.export.merge import export_merged
from finetune_trainer.export.merge_check import check_merged
from finetune_trainer.export.merge_start import merge_start
from finetune_trainer.model.adapter_folder import fetch_adapter
from finetune_trainer.model.load import load_config, load_model
from finetune_trainer.model.lora import apply_lora
from finetune_trainer.model.score import ScoreHead
from finetune_trainer.spec import LoRA
from s3_bucket import Bucket

HEAD = ScoreHead(("ham", "spam", "unsure"), "single_label_classification", pad_id=0, seed=3)
IDS = torch.randint(3, tiny_models.VOCABULARY, (4, 24), generator=torch.Generator().manual_seed(0))
IDS[1, 9:] = IDS[3, 17:] = HEAD.pad_id
KINDS = ("llama", "llama-tied", "gpt2", "gemma2", "mixtral")


@torch.no_grad()
def scores(model: Any) -> torch.Tensor:
    found: torch.Tensor = model.eval()(input_ids=IDS, use_cache=False).logits
    return found


def trained(path: Path, *, lora: bool) -> Any:
    """A classifier on the weights in `path`, all of whose trained weights have moved."""
    model: Any = load_model(path, dtype=torch.float32, head=HEAD)
    if lora:
        model, _ = apply_lora(model, LoRA(rank=4, alpha=8), seed=0)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def plain(folder: Path, **options: Any) -> Any:
    load: Any = AutoModelForSequenceClassification.from_pretrained
    return load(folder, dtype=torch.float32, **options)


def says_its_labels(config: PreTrainedConfig) -> bool:
    return (config.id2label, config.problem_type, config.get_text_config().pad_token_id) == (
        {0: "ham", 1: "spam", 2: "unsure"},
        HEAD.problem_type,
        HEAD.pad_id,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_all_weights_load_in_transformers(kind: str, control: ControlGroup, tmp_path: Path) -> None:
    base = tiny_models.save(kind, tmp_path / "base")
    model = trained(base, lora=False)
    (tmp_path / "full").mkdir()
    export_full(model, base, tmp_path / "full", control)
    found, info = plain(tmp_path / "full", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    torch.testing.assert_close(scores(found), scores(model), rtol=1e-5, atol=1e-6)
    assert says_its_labels(found.config)


@pytest.mark.parametrize("kind", KINDS)
def test_adapter_loads_in_peft_and_merged_weights_in_transformers(
    kind: str, control: ControlGroup, tmp_path: Path
) -> None:
    base = tiny_models.save(kind, tmp_path / "base", shard_size="30KB")
    model = trained(base, lora=True)
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    adapter.mkdir()
    merged.mkdir()
    export_adapter(model, f"file://{base}", adapter, control)
    config = AutoConfig.from_pretrained(adapter)
    assert says_its_labels(config)
    found: Any = PeftModel.from_pretrained(plain(base, config=config), str(adapter))
    torch.testing.assert_close(scores(found), scores(model), rtol=1e-5, atol=1e-6)
    export_merged(adapter, base, merged, control, torch.float32, shard=20_000)
    whole, info = plain(merged, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    torch.testing.assert_close(scores(whole), scores(model), rtol=1e-4, atol=1e-4)
    assert says_its_labels(whole.config)
    assert check_merged(base, adapter, merged)["relativeDifference"] < 1e-5


def test_an_adapter_of_a_classifier_is_merged_into_it(control: ControlGroup, tmp_path: Path) -> None:
    first = trained(tiny_models.save("llama", tmp_path / "base"), lora=False)
    (tmp_path / "first").mkdir()
    export_full(first, tmp_path / "base", tmp_path / "first", control)
    second = trained(tmp_path / "first", lora=True)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "merged").mkdir()
    export_adapter(second, "file:///first", tmp_path / "adapter", control)
    export_merged(tmp_path / "adapter", tmp_path / "first", tmp_path / "merged", control, torch.float32)
    torch.testing.assert_close(scores(plain(tmp_path / "merged")), scores(second), rtol=1e-4, atol=1e-4)
    assert "lm_head.weight" not in load_file(tmp_path / "merged" / "model.safetensors")


def test_a_configuration_beside_an_adapter_counts_for_a_classifier_alone(
    bucket: Bucket, control: ControlGroup, tmp_path: Path
) -> None:
    base = tiny_models.save("llama", tmp_path / "base")
    plain_adapter, adapter = tmp_path / "plain", tmp_path / "adapter"
    apply_lora(tiny_models.build("llama"), LoRA(rank=4, alpha=8), seed=0)[0].save_pretrained(str(plain_adapter))
    left_by_others = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 7}
    (plain_adapter / "config.json").write_text(json.dumps(left_by_others))
    merged = load_config(merge_start(base, plain_adapter, tmp_path / "cache", torch.float32))
    assert merged.get_text_config().vocab_size == tiny_models.VOCABULARY
    adapter.mkdir()
    export_adapter(trained(base, lora=True), f"file://{base}", adapter, control)
    for file in adapter.iterdir():
        bucket.client.put_object(Bucket=bucket.name, Key=f"scores/{file.name}", Body=file.read_bytes())
    fetched = fetch_adapter(f"{bucket.uri}/scores", tmp_path / "cache")
    assert says_its_labels(load_config(merge_start(base, fetched, tmp_path / "cache", torch.float32)))
