"""Merged weights: equal to the adapter's output, on original weights, for plain, tied, renamed and fused weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

import tiny_models
from finetune_trainer.engine.collectives import ControlGroup
from finetune_trainer.export.adapter import export_adapter
from finetune_trainer.export.deltas import CannotMerge
from finetune_trainer.export.merge import export_merged
from finetune_trainer.export.merge_check import check_merged
from finetune_trainer.model.lora import apply_lora
from finetune_trainer.spec.method import LoRA

TOKENS = torch.arange(5, 29)[None]


def base(folder: Path) -> PreTrainedModel:
    load: Any = AutoModelForCausalLM.from_pretrained
    model: PreTrainedModel = load(folder, dtype=torch.float32).eval()
    return model


def trained_adapter(model_path: Path, control: ControlGroup, folder: Path, targets: tuple[str, ...]) -> Path:
    """An adapter whose B is not zero any more, as the product exports it."""
    module, _ = apply_lora(base(model_path), LoRA(rank=4, alpha=8, target_modules=targets), seed=0)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    folder.mkdir()
    export_adapter(module, f"file://{model_path}", folder, control)
    return folder


def merged(
    model_path: Path, control: ControlGroup, tmp_path: Path, *, targets: tuple[str, ...] = ("all-linear",)
) -> Path:
    adapter = trained_adapter(model_path, control, tmp_path / "adapter", targets)
    folder = tmp_path / "merged"
    folder.mkdir()
    export_merged(adapter, model_path, folder, control, torch.float32, shard=20_000)
    return folder


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=TOKENS, use_cache=False).logits
    return found


@pytest.mark.parametrize("kind", ["llama", "llama-tied", "gpt2", "gemma2", "mixtral", "qwen3-moe"])
def test_merged_model_gives_the_logits_of_base_and_adapter(kind: str, control: ControlGroup, tmp_path: Path) -> None:
    model_path = tiny_models.save(kind, tmp_path / "model", shard_size="30KB")
    folder = merged(model_path, control, tmp_path)
    tuned: Any = PeftModel.from_pretrained(base(model_path), str(tmp_path / "adapter"))
    wanted = logits(tuned.eval())
    assert (logits(base(model_path)) - wanted).abs().max() > 0.05
    torch.testing.assert_close(logits(base(folder)), wanted, rtol=1e-4, atol=1e-4)
    report = check_merged(model_path, tmp_path / "adapter", folder)
    assert report["checked"]
    assert report["relativeDifference"] < 1e-5 < report["adapterEffect"]


def test_weights_without_adapter_keep_their_bytes(control: ControlGroup, tmp_path: Path) -> None:
    model_path = tiny_models.save("llama", tmp_path / "model")
    folder = merged(model_path, control, tmp_path, targets=("q_proj",))
    before = load_file(model_path / "model.safetensors")
    after = {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(2)}


def test_bfloat16_weights_are_merged_in_float32_and_rounded_once(control: ControlGroup, tmp_path: Path) -> None:
    model_path = tiny_models.save("llama", tmp_path / "model")
    original = load_file(model_path / "model.safetensors")
    save_file(
        {n: v.bfloat16() for n, v in original.items()}, model_path / "model.safetensors", metadata={"format": "pt"}
    )
    adapter = trained_adapter(model_path, control, tmp_path / "adapter", ("q_proj",))
    folder = tmp_path / "merged"
    folder.mkdir()
    export_merged(adapter, model_path, folder, control, torch.bfloat16)
    name = "model.layers.0.self_attn.q_proj.weight"
    lora = load_file(adapter / "adapter_model.safetensors")
    a, b = (lora[f"base_model.model.model.layers.0.self_attn.q_proj.lora_{part}.weight"] for part in "AB")
    wanted = (original[name].bfloat16().double() + 2.0 * b.double() @ a.double()).bfloat16()
    found = load_file(folder / "model.safetensors")[name]
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, wanted, rtol=2**-8, atol=1e-9)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert check_merged(model_path, adapter, folder)["tolerance"] == 0.03


def test_a_merge_that_went_wrong_is_refused(control: ControlGroup, tmp_path: Path) -> None:
    model_path = tiny_models.save("llama", tmp_path / "model")
    folder = merged(model_path, control, tmp_path)
    first = next(file for file in folder.glob("*.safetensors") if any("v_proj" in name for name in load_file(file)))
    weights = load_file(first)
    name = next(name for name in weights if "v_proj" in name)
    weights[name] = load_file(model_path / "model.safetensors")[name]
    save_file(weights, first, metadata={"format": "pt"})
    with pytest.raises(CannotMerge, match=r"they differ by .* 1e-04 is allowed.*spec\.output\.format: Adapter"):
        check_merged(model_path, tmp_path / "adapter", folder)


def test_an_adapter_on_a_tied_output_embedding_cannot_be_merged(control: ControlGroup, tmp_path: Path) -> None:
    model_path = tiny_models.save("llama-tied", tmp_path / "model")
    with pytest.raises(CannotMerge, match=r"lm_head\.weight has an adapter and no weight of its own"):
        merged(model_path, control, tmp_path, targets=("lm_head", "q_proj"))
