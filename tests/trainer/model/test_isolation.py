"""The proof passes architectures that keep packed documents apart and refuses those, and those calls, that leak."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

import tiny_models
from finetune_trainer.errors import SpecError
from finetune_trainer.model.isolation import IsolationReport, measure_isolation, prove_isolation
from finetune_trainer.model.lora import apply_lora
from finetune_trainer.spec.method import LoRA

CPU = torch.device("cpu")
ISOLATED = ["llama", "qwen3", "mistral-window", "gemma2", "gemma3", "mixtral", "qwen2-moe", "gpt2"]

# A leak moves logits by 0.5. bfloat16: 4 times the rounding, which is 0.02 on most processors and 0.031 on those that
# multiply bfloat16 themselves (AVX512-BF16).
MOST_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.16}


class CalledBadly(nn.Module):
    """A model whose caller changes one argument, as training code that leaks does."""

    def __init__(self, model: Any, **changes: Any) -> None:
        super().__init__()
        self.model = model
        self.changes = changes

    def get_input_embeddings(self) -> nn.Module:
        embedding: nn.Module = self.model.get_input_embeddings()
        return embedding

    def forward(self, **inputs: Any) -> Any:
        changes = {name: make(inputs) for name, make in self.changes.items()}
        return self.model(**(inputs | changes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ISOLATED)
def test_attention_that_respects_positions_is_proved(kind: str, dtype: torch.dtype) -> None:
    model: Any = tiny_models.build(kind).train()
    report = prove_isolation(model.to(dtype), CPU)
    assert report.other_neighbour <= 1e-6
    assert report.alone <= report.tolerance <= MOST_TOLERANCE[dtype]
    assert model.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "changes",
    [
        {"position_ids": lambda _: None},
        {"attention_mask": lambda inputs: torch.ones_like(inputs["input_ids"])},
        {"use_cache": lambda _: True},
    ],
    ids=["positions ignored", "attention mask of ones", "cache"],
)
def test_a_leak_is_refused(changes: dict[str, Any], dtype: torch.dtype) -> None:
    model: Any = tiny_models.build("llama")
    with pytest.raises(SpecError) as caught:
        prove_isolation(CalledBadly(model.to(dtype), **changes), CPU)
    (problem,) = caught.value.problems
    assert (problem.path, problem.value) == ("spec.data.packing", "BestFit")
    assert "lets documents see each other" in problem.message
    assert problem.message.endswith("write None")


def test_state_that_is_carried_over_is_refused() -> None:
    with pytest.raises(SpecError, match="lets documents see each other"):
        prove_isolation(tiny_models.build("mamba"), CPU)


def test_positions_alone_do_not_prove_isolation() -> None:
    """Without attention across documents, but with positions that run on, only the comparison with alone fails."""
    model: Any = tiny_models.build("gpt2")
    table = model.transformer.wpe

    def run_on(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (torch.arange(inputs[0].shape[1])[None],)

    table.register_forward_pre_hook(run_on)
    report = measure_isolation(model, CPU)
    assert report.other_neighbour <= 1e-6
    assert report.alone > 0.01
    assert not report.isolated


def test_adapters_and_dropout_do_not_disturb_the_proof() -> None:
    model, _ = apply_lora(tiny_models.build("llama", attention_dropout=0.5), LoRA(rank=4, dropout=0.5), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_()
    assert prove_isolation(model.train(), CPU).isolated


def test_rounding_that_would_hide_a_leak_proves_nothing() -> None:
    noisy = IsolationReport("bfloat16", alone=0.5, other_neighbour=0.4, rounding=0.3, tolerance=1.2)
    assert not noisy.isolated


def test_the_report_is_json() -> None:
    report = measure_isolation(tiny_models.build("llama"), CPU).to_json()
    assert json.loads(json.dumps(report))["isolated"] is True
