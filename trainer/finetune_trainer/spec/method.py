"""Which weights are trained."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_trainer.spec.base import Part
from finetune_trainer.spec.names import ModulePattern

ALL_LINEAR = "all-linear"


class MethodType(StrEnum):
    """Which weights are trained."""

    FULL = "Full"
    LORA = "LoRA"
    QLORA = "QLoRA"


class LoRA(Part):
    """Low-rank adapters beside frozen weights (arXiv:2106.09685).

    Defaults: every linear layer, which beats attention-only at equal parameter count ("LoRA Without Regret",
    thinkingmachines.ai, 2025); rank 16 with alpha 32, the setting of NeMo AutoModel's recipes; no dropout, which costs
    a pass over the activations and fused kernels.
    """

    rank: Annotated[int, Field(ge=1, le=4096)] = 16
    """Rank of the adapters."""

    alpha: Annotated[int, Field(ge=1, le=65536)] = 32
    """Scale of the adapters: their output is multiplied by alpha / rank."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the adapter's inputs that is dropped while training."""

    target_modules: Annotated[tuple[ModulePattern, ...], Field(min_length=1, max_length=64)] = (ALL_LINEAR,)
    """Modules that get an adapter: names or name endings such as `q_proj`, or `all-linear` alone."""


class Method(Part):
    """Which weights are trained, and how."""

    type: MethodType
    """`Full` trains all weights, `LoRA` trains adapters beside the frozen weights."""

    lora: LoRA | None = None
    """Options of `type: LoRA`; filled with their defaults when left out there."""
