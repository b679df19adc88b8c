"""How the training state is spread over ranks and host memory."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_trainer.spec.base import Part
from finetune_trainer.spec.overrides import Overrides

MAX_ZERO_STAGE = 3


class Offload(StrEnum):
    """Where a part of the training state is kept."""

    NONE = "None"
    CPU = "CPU"
    NVME = "NVMe"


class DeepSpeed(Part):
    """How the training state is spread over ranks and host memory (ZeRO, arXiv:1910.02054).

    Stage 2 is the default: it shards gradients and optimizer state and sends no more data than plain data parallelism
    (section 7 of the paper); stage 3 shards the weights too, for half as much traffic again.
    """

    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2
    """What is sharded over the ranks: 0 nothing, 1 optimizer state, 2 gradients too, 3 weights too."""

    offload_optimizer: Offload = Offload.NONE
    """Keep the optimizer's state in host memory (`CPU`), from stage 1 on."""

    offload_parameters: Offload = Offload.NONE
    """Keep the weights in host memory (`CPU`), with stage 3."""

    overrides: Overrides = Field(default_factory=dict)
    """DeepSpeed options by dotted name, for instance `zero_optimization.reduce_bucket_size: 5e8`."""
