"""What the training minimises."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from finetune_trainer.spec.base import Part


class ObjectiveType(StrEnum):
    """What the training minimises."""

    CPT = "CPT"
    SFT = "SFT"
    DPO = "DPO"
    ORPO = "ORPO"
    KTO = "KTO"
    REWARD = "Reward"
    CLASSIFICATION = "Classification"
    GRPO = "GRPO"


class DPO(Part):
    """Direct preference optimisation (arXiv:2305.18290)."""

    beta: Annotated[float, Field(gt=0, le=100)] = 0.1
    """Strength of the pull towards the reference model."""


OptionName = Annotated[str, Field(min_length=1, max_length=64)]
# Not settled before the objective is there; known, so that a manifest for it gets one clear refusal.
OptionValue = Annotated[Any, WithJsonSchema({"x-kubernetes-preserve-unknown-fields": True})]
Options = Annotated[dict[OptionName, OptionValue], Field(max_length=32)]


class Objective(Part):
    """What the training minimises; options stand in a member named like the type."""

    type: ObjectiveType
    """`SFT` trains the answers of conversations and prompts, `CPT` (continued pre-training) trains all of the text."""

    dpo: DPO | None = None
    """Options of `type: DPO`."""

    orpo: Options | None = None
    """Options of `type: ORPO`."""

    kto: Options | None = None
    """Options of `type: KTO`."""

    reward: Options | None = None
    """Options of `type: Reward`."""

    classification: Options | None = None
    """Options of `type: Classification`."""

    grpo: Options | None = None
    """Options of `type: GRPO`."""
