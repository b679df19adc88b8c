"""Small models and manifests whose peak memory is both predicted and measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny_models
from finetune_trainer.estimate import ModelShape, Setup, peak, read_shape
from finetune_trainer.spec import parse_job
from ranks import run_ranks

BUCKET = 1_000_000
"""Elements of DeepSpeed's buckets here: its 500 million would be most of the memory of a small model."""

_SMALL: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 2048,
}
_LARGE: dict[str, Any] = _SMALL | {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 4096,
}
Models = Mapping[str, tuple[str, dict[str, Any]]]
"""Kind of `tiny_models` and members of its configuration, by name."""

MODELS: Models = {
    "Llama 1M": ("llama", _SMALL),
    "Llama 16M": ("llama", _LARGE),
    "Llama 1M tied": ("llama-tied", _SMALL),
    "Qwen3 2M": ("qwen3", _SMALL | {"head_dim": 64}),
    "Gemma3 2M": ("gemma3", _SMALL | {"head_dim": 64}),
}


TOKENS = "added tokens"
VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    TOKENS: {},
    "DoRA": {"dora": True},
    "lm_head whole": {"modulesToSave": ["lm_head"], "targetModules": ["q_proj", "v_proj"]},
    "ranks": {"perModule": [{"modules": ["*.mlp.*_proj"], "rank": 64}]},
    "last layers": {"train": ["model.layers.[23].*", "lm_head"]},
    "no embeddings": {"freeze": ["embed_tokens", "lm_head"]},
}


@dataclass(frozen=True)
class Case:
    """How a model is trained; `micro_batches` of `rows` rows for an update, each row of `documents`."""

    model: str
    method: str
    zero_stage: int
    precision: str
    checkpointing: str
    length: int
    ranks: int = 1
    documents: int = 1
    rows: int = 1
    micro_batches: int = 2
    variant: str = ""

    @property
    def name(self) -> str:
        """All of it, for a table's row."""
        packed = f", {self.documents} documents a row" if self.documents > 1 else ""
        variant = f" ({self.variant})" if self.variant else ""
        checkpointing = ", checkpointing" if self.checkpointing == "On" else ""
        return (
            f"{self.model} {self.method}{variant} ZeRO {self.zero_stage} {self.precision}{checkpointing}, "
            f"{self.micro_batches} x {self.rows} x {self.length}{packed}, {self.ranks} rank{'s' * (self.ranks > 1)}"
        )

    @property
    def job(self) -> dict[str, Any]:
        """The manifest."""
        method: dict[str, Any] = {"type": self.method}
        if self.method == "LoRA":
            method["lora"] = {"rank": 8, "alpha": 16} | VARIANTS[self.variant]
        elif self.variant:
            method["full"] = VARIANTS[self.variant]
        overrides = {"zero_optimization.reduce_bucket_size": BUCKET} if self.zero_stage else {}
        return {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": "measured"},
            "spec": {
                "model": {"uri": "file:///nowhere", "addedTokens": ["<a>", "<b>"] if self.variant == TOKENS else []},
                "method": method,
                "objective": {"type": "SFT"},
                "data": {
                    "train": [{"uri": "file:///nowhere/*.jsonl"}],
                    "maxLength": self.length,
                    "packing": "BestFit" if self.documents > 1 else "None",
                },
                "training": {
                    "maxSteps": 2,
                    "globalBatchSize": self.rows * self.micro_batches * self.ranks,
                    "microBatchSize": self.rows,
                    "learningRate": 1e-4,
                    "precision": self.precision,
                    "gradientCheckpointing": self.checkpointing,
                },
                "deepspeed": {"zeroStage": self.zero_stage, "overrides": overrides},
                "checkpoint": {"uri": "file:///nowhere/checkpoints", "everySteps": 2},
                "output": {"uri": "file:///nowhere/output"},
                "workers": {"replicas": self.ranks, "gpusPerReplica": 0},
            },
        }


FEW = (
    Case("Llama 1M", "Full", 0, "BF16", "On", 256),
    Case("Qwen3 2M", "LoRA", 2, "FP32", "On", 512, rows=2),
    Case("Llama 1M", "LoRA", 2, "BF16", "On", 512, documents=2),
    Case("Llama 1M", "Full", 1, "FP32", "Off", 256, ranks=2),
    Case("Llama 1M", "Full", 3, "FP32", "On", 256, ranks=2),
    Case("Llama 1M", "LoRA", 3, "BF16", "Off", 256, ranks=2),
)
"""Those that every run of the tests measures."""

MORE = (
    Case("Llama 1M", "Full", 2, "BF16", "Off", 256, ranks=2),
    Case("Llama 1M", "Full", 0, "FP32", "Off", 256),
    Case("Llama 1M", "Full", 1, "BF16", "On", 256),
    Case("Llama 1M", "LoRA", 0, "BF16", "Off", 512),
    Case("Llama 1M", "Full", 1, "FP32", "On", 256),
    Case("Llama 1M", "Full", 2, "BF16", "On", 256),
    Case("Llama 1M", "LoRA", 2, "BF16", "Off", 256, micro_batches=1),
    Case("Llama 1M", "Full", 2, "FP32", "Off", 512, rows=2, micro_batches=1),
    Case("Llama 1M", "LoRA", 0, "FP32", "Off", 512, documents=4),
    Case("Llama 1M tied", "Full", 0, "BF16", "Off", 256),
    Case("Qwen3 2M", "Full", 0, "FP32", "Off", 256),
    Case("Gemma3 2M", "Full", 0, "BF16", "Off", 256),
    Case("Gemma3 2M", "LoRA", 2, "FP32", "On", 256),
    Case("Llama 16M", "Full", 0, "FP32", "Off", 128),
    Case("Llama 16M", "LoRA", 2, "BF16", "On", 512),
    Case("Llama 16M", "Full", 2, "BF16", "Off", 256),
    Case("Llama 16M", "Full", 1, "BF16", "Off", 128, ranks=2),
    Case("Llama 16M", "Full", 2, "FP32", "On", 256, ranks=2),
    Case("Llama 16M", "Full", 3, "BF16", "On", 256, ranks=2),
    Case("Llama 16M", "LoRA", 3, "FP32", "Off", 256, ranks=2),
    Case("Llama 1M", "Full", 0, "FP32", "On", 512, ranks=2),
    Case("Llama 1M", "LoRA", 1, "FP32", "Off", 512, ranks=2),
)

UNSEEN = (
    Case("Qwen3 2M", "LoRA", 0, "BF16", "Off", 300, documents=3, rows=2),
    Case("Llama 1M", "Full", 1, "BF16", "Off", 200, micro_batches=1, rows=3),
    Case("Gemma3 2M", "Full", 3, "BF16", "On", 200, micro_batches=1),
    Case("Llama 16M", "Full", 1, "FP32", "On", 100, micro_batches=1),
    Case("Llama 1M tied", "LoRA", 1, "FP32", "On", 400, micro_batches=3),
    Case("Qwen3 2M", "Full", 2, "FP32", "Off", 250, documents=5),
    Case("Llama 1M", "Full", 2, "BF16", "Off", 64, ranks=2, micro_batches=1),
    Case("Qwen3 2M", "Full", 3, "BF16", "Off", 200, ranks=2, micro_batches=1),
    Case("Llama 16M", "Full", 1, "FP32", "Off", 64, ranks=2, micro_batches=1),
    Case("Gemma3 2M", "LoRA", 3, "FP32", "On", 300, ranks=2, documents=2),
    Case("Llama 16M", "Full", 2, "BF16", "On", 64, ranks=2, micro_batches=1),
)
"""Chosen, and measured for the first time, when the formulas were finished."""


PARTS = (
    Case("Llama 1M", "LoRA", 2, "BF16", "Off", 256, variant="DoRA"),
    Case("Llama 16M", "LoRA", 0, "FP32", "On", 256, variant="DoRA"),
    Case("Llama 1M", "LoRA", 0, "FP32", "Off", 256, variant="lm_head whole"),
    Case("Llama 16M", "LoRA", 2, "BF16", "On", 128, variant="ranks"),
    Case("Llama 1M", "LoRA", 1, "BF16", "Off", 256, variant=TOKENS),
    Case("Llama 1M", "Full", 0, "FP32", "Off", 512, variant="last layers"),
    Case("Llama 16M", "Full", 2, "BF16", "On", 256, variant="no embeddings"),
)
"""Of methods that train more or less than usual; looked at only when their formulas were written."""


def shape_of(kind: str, options: Mapping[str, Any]) -> ModelShape:
    """The shape of one of `tiny_models`, with these members of its configuration."""
    return read_shape(json.loads(tiny_models.CONFIGS[kind](**options).to_json_string(use_diff=False)))


def predicted(case: Case, *, on_gpu: bool = False, models: Models = MODELS) -> int:
    """Bytes of tensors at the peak of a rank, by the estimate."""
    setup = Setup.of(parse_job(json.dumps(case.job)), case.ranks, on_gpu=on_gpu)
    return peak(shape_of(*models[case.model]), setup).size


def measured(cases: Iterable[Case], folder: Path, *, device: str = "cpu", timeout: float = 600) -> dict[Case, int]:
    """Bytes at the peak of the rank that took most, in a training of two steps."""
    found: dict[Case, int] = {}
    wanted = list(cases)
    for ranks in sorted({case.ranks for case in wanted}):
        these = [case for case in wanted if case.ranks == ranks]
        payload = {
            case.name: {"job": case.job, "model": str(_model(case.model, folder)), "documents": case.documents}
            for case in these
        }
        target = "tests/trainer/estimate/ranks_memory.py:measure"
        peaks = run_ranks(ranks, target, {"cases": payload, "device": device}, timeout, fresh=True)
        found |= {case: max(one[case.name] for one in peaks) for case in these}
    return found


def _model(name: str, folder: Path) -> Path:
    kind, options = MODELS[name]
    path = folder / name.replace(" ", "-")
    return path if path.exists() else tiny_models.save(kind, path, **options)
