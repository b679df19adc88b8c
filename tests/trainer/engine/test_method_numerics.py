"""Methods on two ranks with accumulation, against plain peft in one process: the same losses and gradient norms."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import tiny_models
from finetune_trainer.engine.optimizer import parameter_groups, set_learning_rate
from finetune_trainer.model.lora import apply_lora, initialise_adapters
from finetune_trainer.spec import LoRA
from ranks import run_ranks
from reference import LEARNING_RATE, Step, adamw, random_steps, reference_run

ROWS = {"seed": 1, "steps": 4, "rows": 5}
RATIO = 2.0
LORA = {"rank": 4, "alpha": 8}
Optimizer = Callable[[torch.nn.Module], torch.optim.Optimizer]


def lora_plus(model: Any) -> torch.optim.Optimizer:
    """peft's, with the options of `reference.adamw`."""
    options: Any = {"lr": LEARNING_RATE, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.0}
    made: torch.optim.Optimizer = create_loraplus_optimizer(
        model, torch.optim.AdamW, loraplus_lr_ratio=RATIO, loraplus_weight_decay=0.0, **options
    )
    return made


CASES: dict[str, tuple[int, dict[str, Any], dict[str, Any], Optimizer]] = {
    "PiSSA and LoRA+, stage 1": (
        1,
        {"type": "LoRA", "lora": LORA | {"initialization": "PiSSA", "learningRateRatio": RATIO}},
        {"init_lora_weights": "pissa"},
        lora_plus,
    ),
    "QLoRA, stage 2": (2, {"type": "QLoRA", "lora": LORA}, {}, adamw),
    "DoRA and a whole module, stage 3": (
        3,
        {"type": "LoRA", "lora": LORA | {"dora": True, "modulesToSave": ["lm_head"]}},
        {"use_dora": True, "modules_to_save": ["lm_head"]},
        adamw,
    ),
}


@pytest.fixture(scope="module")
def wide_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough for blocks of 64 weights that share a scale."""
    return tiny_models.save("llama", tmp_path_factory.mktemp("wide-llama"), hidden_size=64, intermediate_size=128)


def reference(path: Path, case: str) -> list[Step]:
    _, method, options, optimizer = CASES[case]
    make: Any = BitsAndBytesConfig
    bits = make(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    bits.bnb_4bit_compute_dtype = torch.float32
    loading = {"quantization_config": bits, "device_map": {"": "cpu"}} if method["type"] == "QLoRA" else {}
    load: Any = AutoModelForCausalLM.from_pretrained
    usual: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    base = load(path, dtype=torch.float32, **loading)
    model: Any = get_peft_model(base, LoraConfig(**usual | options), autocast_adapter_dtype=False)
    if "init_lora_weights" not in options:
        initialise_adapters(model, seed=0)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return reference_run(model, random_steps(**ROWS), optimizer_of=optimizer)


def test_two_ranks_learn_what_peft_learns_in_one_process(wide_llama: Path) -> None:
    cases = {
        name: {"model": str(wide_llama), "zero_stage": stage, "method": method, "rows": ROWS}
        for name, (stage, method, _, _) in CASES.items()
    }
    ranks = run_ranks(2, "tests/trainer/engine/ranks_engine.py:train", {"cases": cases})
    for name in CASES:
        losses, norms = zip(*reference(wide_llama, name), strict=True)
        assert min(losses) < losses[0]  # the reference learns, so equality says something
        for results in ranks:
            assert results[name]["losses"] == pytest.approx(losses, rel=1e-6), name
            assert results[name]["norms"] == pytest.approx(norms, rel=2e-6), name


def test_only_the_second_matrices_learn_faster_and_vectors_are_not_decayed() -> None:
    model, _ = apply_lora(tiny_models.build("llama"), LoRA(rank=4, dora=True), seed=0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(parameter_groups(model.named_parameters(), 0.1, b_ratio=16.0))
    set_learning_rate(optimizer, 0.01)
    found = {
        re.sub(r".*(lora_[a-zA-Z_]+).*", r"\1", names[id(one)]): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for one in group["params"]
    }
    assert found == {"lora_A": (0.01, 0.1), "lora_B": (0.16, 0.1), "lora_magnitude_vector": (0.01, 0.0)}
