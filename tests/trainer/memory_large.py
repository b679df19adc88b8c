"""Models of a size that GPUs are bought for, whose memory on a GPU is both predicted and measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memory_cases import Case, Models, predicted
from ranks import run_ranks

RANKS = "tests/trainer/estimate/ranks_memory.py"

_LLAMA: dict[str, Any] = {
    "vocab_size": 128_256,
    "intermediate_size": 8192,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "initializer_range": 0.02,
}
MODELS: Models = {
    "Qwen3 0.6B": (
        "qwen3",
        _LLAMA
        | {"vocab_size": 151_936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28}
        | {"num_attention_heads": 16, "head_dim": 128, "tie_word_embeddings": True},
    ),
    "Llama 1.2B": (
        "llama-tied",
        _LLAMA | {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "head_dim": 64},
    ),
    "Llama 3.2B": (
        "llama-tied",
        _LLAMA | {"hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24, "head_dim": 128},
    ),
}
"""The shapes of Qwen3-0.6B, Llama-3.2-1B and Llama-3.2-3B, with random weights."""


@dataclass(frozen=True)
class LargeCase(Case):
    """DeepSpeed's buckets as they are by default; `offload` names what lies on the host, `objective` what is learnt."""

    offload: str = ""
    objective: str = "SFT"

    @property
    def name(self) -> str:
        """All of it, for a table's row."""
        objective = "" if self.objective == "SFT" else f", {self.objective}"
        return super().name + objective + (f", {self.offload} offloaded" if self.offload else "")

    @property
    def job(self) -> dict[str, Any]:
        """The manifest."""
        job = super().job
        spec = job["spec"]
        spec["deepspeed"] = {"zeroStage": self.zero_stage}
        if self.offload:
            spec["deepspeed"][f"offload{self.offload.capitalize()}"] = "CPU"
        if self.method != "Full":
            spec["method"]["lora"] = {"rank": 16, "alpha": 32}
        spec["objective"] = {"type": self.objective}
        spec["workers"] = {"replicas": 1, "gpusPerReplica": 1}
        return job


@dataclass(frozen=True)
class Measured:
    """Bytes: at the peak of tensors and of torch's allocator, and on the GPU outside of it."""

    allocated: int
    reserved: int
    outside: int


LARGE = (
    LargeCase("Qwen3 0.6B", "Full", 0, "BF16", "On", 4096),
    LargeCase("Qwen3 0.6B", "Full", 2, "BF16", "On", 4096, rows=2),
    LargeCase("Qwen3 0.6B", "Full", 3, "BF16", "On", 2048, rows=2),
    LargeCase("Qwen3 0.6B", "LoRA", 2, "BF16", "Off", 4096),
    LargeCase("Llama 1.2B", "Full", 1, "BF16", "On", 4096, micro_batches=1),
    LargeCase("Llama 1.2B", "Full", 2, "BF16", "Off", 2048),
    LargeCase("Llama 1.2B", "Full", 0, "BF16", "On", 4096, documents=8),
    LargeCase("Llama 1.2B", "Full", 0, "FP32", "Off", 2048),
    LargeCase("Llama 1.2B", "LoRA", 0, "BF16", "Off", 4096),
    LargeCase("Llama 1.2B", "LoRA", 2, "BF16", "On", 8192, rows=2),
    LargeCase("Llama 1.2B", "LoRA", 2, "BF16", "On", 2048, rows=2, objective="DPO"),
    LargeCase("Llama 1.2B", "QLoRA", 2, "BF16", "On", 4096, rows=2),
    LargeCase("Llama 1.2B", "Full", 2, "BF16", "On", 4096, offload="optimizer"),
    LargeCase("Llama 3.2B", "LoRA", 2, "BF16", "On", 4096, rows=4),
    LargeCase("Llama 3.2B", "LoRA", 3, "BF16", "On", 2048, rows=2, offload="parameters"),
    LargeCase("Llama 3.2B", "QLoRA", 2, "BF16", "On", 8192),
    LargeCase("Llama 3.2B", "Full", 2, "BF16", "On", 2048),
)


def predicted_large(case: LargeCase) -> int:
    """Bytes of tensors at the peak, by the estimate."""
    return predicted(case, on_gpu=True, models=MODELS)


def measured_large(cases: Iterable[LargeCase], folder: Path, *, timeout: float = 300) -> dict[LargeCase, Measured]:
    """What each case took in a training of two steps on one GPU.

    Each in a process of its own: DeepSpeed frees much with the process only.
    """
    wanted = list(cases)
    folders = {case.model: str(folder / case.model.replace(" ", "-")) for case in wanted}
    run_ranks(1, f"{RANKS}:make_models", {"models": {path: MODELS[name] for name, path in folders.items()}}, timeout)
    found: dict[LargeCase, Measured] = {}
    for case in wanted:
        payload = {"job": case.job, "model": folders[case.model], "documents": case.documents}
        found[case] = Measured(**run_ranks(1, f"{RANKS}:measure_large", payload, timeout, fresh=True)[0])
    return found
