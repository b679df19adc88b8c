"""How the weights are updated."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_trainer.spec.base import Count, CountOrZero, Part


class ScheduleType(StrEnum):
    """Shape of the learning rate over the run, after the warm-up."""

    COSINE = "Cosine"
    LINEAR = "Linear"
    CONSTANT = "Constant"
    WSD = "WSD"


class OptimizerType(StrEnum):
    """Which optimizer updates the weights."""

    ADAMW = "AdamW"


class Precision(StrEnum):
    """Number format of weights and activations in the forward and backward pass."""

    BF16 = "BF16"
    FP32 = "FP32"


class GradientCheckpointing(StrEnum):
    """Whether activations are computed again in the backward pass instead of kept."""

    AUTO = "Auto"
    ON = "On"
    OFF = "Off"


class Schedule(Part):
    """The learning rate over the run."""

    type: ScheduleType = ScheduleType.COSINE
    """Shape after the warm-up; `WSD` is constant, then decays at the end (warm-up, stable, decay)."""

    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Share of the run in which the learning rate rises from 0."""


Beta = Annotated[float, Field(ge=0, lt=1)]


class Optimizer(Part):
    """AdamW (arXiv:1711.05101) with the betas usual for large language models (arXiv:2005.14165)."""

    type: OptimizerType = OptimizerType.ADAMW
    """Which optimizer updates the weights."""

    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Decoupled weight decay per step, times the learning rate."""

    betas: Annotated[tuple[Beta, ...], Field(min_length=2, max_length=2)] = (0.9, 0.95)
    """Decay of the running averages of the gradient and of its square."""

    eps: Annotated[float, Field(gt=0, le=1)] = 1e-8
    """Added to the denominator, against division by zero."""


class Training(Part):
    """How the weights are updated, and for how long."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Passes over the training data; give this or `maxSteps`."""

    max_steps: Count | None = None
    """Optimizer steps; give this or `epochs`."""

    global_batch_size: Annotated[int, Field(ge=1, le=1_048_576)]
    """Rows per optimizer step over all ranks (packed rows with packing); need not divide by the number of ranks."""

    micro_batch_size: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """Rows per rank and forward pass; chosen when left out, and without effect on the result."""

    learning_rate: Annotated[float, Field(gt=0, le=1)]
    """Highest learning rate; usual are 2.0e-4 for LoRA and a tenth of it for full fine-tuning."""

    schedule: Schedule = Schedule()
    """The learning rate over the run."""

    optimizer: Optimizer = Optimizer()
    """The optimizer and its options."""

    max_grad_norm: Annotated[float, Field(ge=0, le=1_000_000)] = 1.0
    """Gradients are scaled down to this norm when theirs is larger; 0 never does."""

    precision: Precision = Precision.BF16
    """Number format of the forward and backward pass; the optimizer's state is 32-bit in both."""

    gradient_checkpointing: GradientCheckpointing = GradientCheckpointing.AUTO
    """Compute activations again in the backward pass to save memory: `Auto`, `"On"` or `"Off"`.

    In quotes for kubectl, which reads a bare `On` as true.
    """

    max_skipped_steps: CountOrZero = 0
    """Steps with a loss or gradient that is not finite that may be skipped before the run fails."""

    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """Seed of the data order, of the adapters' first weights and of dropout."""
