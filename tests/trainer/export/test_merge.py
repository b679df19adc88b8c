"""Merged weights: equal to the adapter's output, on original weights, for plain, tied, renamed and fused weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

import tiny_models
from finetune_trainer.engine.collectives import ControlGroup
from finetune_trainer.export.adapter import export_adapter
from finetune_trainer.export.merge import export_merged
from finetune_trainer.export.merge_check import check_merged
from finetune_trainer.model import apply_lora
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
