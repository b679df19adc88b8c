"""What every variant was trained to comes out as a plain adapter, and merged, for the model as it was published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import tiny_models
from finetune_trainer.engine.collectives import ControlGroup
from finetune_trainer.export.adapter import export_adapter
from finetune_trainer.export.merge import export_merged
from finetune_trainer.export.merge_check import check_merged
from finetune_trainer.model.added_tokens import make_room
from finetune_trainer.model.decompose import decompose, take_out
from finetune_trainer.model.load import load_model
from finetune_trainer.model.lora import apply_lora
from finetune_trainer.model.quantize import quantization
from finetune_trainer.spec.method import Initialization, LoRA, ModuleRank, QLoRA

CPU = torch.device("cpu")
TOKENS = torch.arange(5, 29)[None]
NEW = [tiny_models.VOCABULARY, tiny_models.VOCABULARY + 1]
TWO_RANKS = (ModuleRank(modules=("down_proj",), rank=2, alpha=6),)

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "DoRA": ("llama", {"dora": True}),
    "DoRA on transposed weights": ("gpt2", {"dora": True}),
    "rsLoRA with other ranks": ("llama", {"rslora": True, "per_module": TWO_RANKS}),
    "PiSSA": ("llama", {"initialization": Initialization.PISSA}),
    "PiSSA on transposed weights": ("gpt2", {"initialization": Initialization.PISSA}),
    "PiSSA and rsLoRA with other ranks": (
        "llama",
        {"initialization": Initialization.PISSA, "rslora": True, "per_module": TWO_RANKS},
    ),
    "OLoRA": ("llama-tied", {"initialization": Initialization.OLORA}),
    "modules to save": ("llama", {"modules_to_save": ("lm_head", "model.norm", "input_layernorm")}),
    "a layer's experts and its router": (
        "qwen3-moe",
        {"modules_to_save": ("layers.0.mlp.gate",), "per_module": (ModuleRank(modules=("*.experts.*",), rank=2),)},
    ),
}


def train_a_little(module: Any) -> None:
    """Steps away from where training begins, for everything that is trained."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model.eval()(input_ids=TOKENS, use_cache=False).logits
    return found


def base(folder: Path) -> Any:
    load: Any = AutoModelForCausalLM.from_pretrained
    return load(folder, dtype=torch.float32)


def exported(module: Any, model_path: Path, control: ControlGroup, folder: Path) -> dict[str, Any]:
    """Adapter and merged model in `folder`, and what the comparison of the two says."""
    for name in ("adapter", "merged"):
        (folder / name).mkdir()
    export_adapter(module, f"file://{model_path}", folder / "adapter", control)
    export_merged(folder / "adapter", model_path, folder / "merged", control, torch.float32, shard=20_000)
    return check_merged(model_path, folder / "adapter", folder / "merged")


@pytest.mark.parametrize("case", CASES)
def test_adapter_and_merged_model_give_the_logits_that_training_had(
    case: str, control: ControlGroup, tmp_path: Path
) -> None:
    kind, options = CASES[case]
    model_path = tiny_models.save(kind, tmp_path / "model", shard_size="30KB")
    lora = LoRA(rank=4, alpha=8, **options)
    module, _ = apply_lora(base(model_path), lora, seed=0)
    if lora.initialization is not Initialization.DEFAULT:
        take_out(module, decompose(module, lora.initialization, 0, CPU))
    train_a_little(module)
    wanted = logits(module)
    report = exported(module, model_path, control, tmp_path)
    assert report["relativeDifference"] < 1e-5 < report["adapterEffect"]
    assert (logits(base(model_path)) - wanted).abs().max() > 0.05
    tuned = PeftModel.from_pretrained(base(model_path), str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(tuned), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits(base(tmp_path / "merged")), wanted, rtol=1e-4, atol=1e-4)
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["init_lora_weights"] is True


@pytest.mark.parametrize("dora", [False, True], ids=["QLoRA", "QLoRA and DoRA"])
def test_an_adapter_beside_four_bits_is_merged_into_the_weights_as_published(
    dora: bool, control: ControlGroup, tmp_path: Path
) -> None:
    model_path = tiny_models.save("llama", tmp_path / "model", hidden_size=64, intermediate_size=128)
    in_bits = load_model(model_path, dtype=torch.float32, quantization=quantization(QLoRA(), torch.float32, CPU))
    module, _ = apply_lora(in_bits, LoRA(rank=4, alpha=8, dora=dora), seed=0)
    train_a_little(module)
    report = exported(module, model_path, control, tmp_path)
    assert report["relativeDifference"] < 1e-5 < report["adapterEffect"]
    tuned = PeftModel.from_pretrained(base(model_path), str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(base(tmp_path / "merged")), logits(tuned), rtol=1e-4, atol=1e-4)
    assert (logits(module) - logits(tuned)).abs().max() > 1e-3  # so the bits were not what was merged


@pytest.mark.parametrize("kind", ["llama", "llama-tied"])
def test_embeddings_of_added_tokens_come_out_with_the_adapter_and_merged(
    kind: str, control: ControlGroup, tmp_path: Path
) -> None:
    model_path = tiny_models.save(kind, tmp_path / "model")
    grown = base(model_path)
    make_room(grown, NEW[-1] + 1, NEW)
    module, covered = apply_lora(grown, LoRA(rank=4, alpha=8), seed=0, tokens=[7, *NEW])
    hidden, embeddings = 32, 2 if kind == "llama" else 1
    assert covered.trained_parameters - apply_lora(base(model_path), LoRA(rank=4), 0)[1].trained_parameters == (
        embeddings * 3 * hidden
    )
    train_a_little(module)
    report = exported(module, model_path, control, tmp_path)
    assert report["relativeDifference"] < 1e-5 < report["adapterEffect"]
    tokens = torch.tensor([[4, 7, *NEW, 9, NEW[0]]])
    with torch.no_grad():
        wanted = module.eval()(input_ids=tokens).logits
        merged = base(tmp_path / "merged")
        torch.testing.assert_close(merged(input_ids=tokens).logits, wanted, rtol=1e-4, atol=1e-4)
        plain = base(model_path)
        plain.resize_token_embeddings(NEW[-1] + 1)
        tuned: Any = PeftModel.from_pretrained(plain, str(tmp_path / "adapter")).eval()
        torch.testing.assert_close(tuned(input_ids=tokens).logits, wanted, rtol=1e-4, atol=1e-4)
    assert merged.config.vocab_size == NEW[-1] + 1
    assert (merged.get_input_embeddings().weight is merged.get_output_embeddings().weight) == (kind == "llama-tied")


def test_new_rows_begin_as_the_mean_of_the_old_ones_and_spare_rows_are_used_first() -> None:
    model: Any = tiny_models.build("llama")
    before = model.get_input_embeddings().weight.detach().clone()
    make_room(model, 90, [88, 89])
    after = model.get_input_embeddings().weight
    assert after.shape == before.shape
    others = [row for row in range(len(before)) if row not in (88, 89)]
    torch.testing.assert_close(after[88], before[others].mean(0))
    assert torch.equal(after[others], before[others])
