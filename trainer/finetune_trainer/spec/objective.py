"""What the training minimises."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from finetune_trainer.spec.base import Part
from finetune_trainer.spec.data import Format, Overlong
from finetune_trainer.spec.heads import Classification, Reward


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


LANGUAGE = (ObjectiveType.CPT, ObjectiveType.SFT)
"""Objectives whose records are texts that a language model continues, and whose loss is nats per token."""


class Trained(StrEnum):
    """Which tokens of a conversation or a prompt with its answer are trained."""

    ANSWERS = "Answers"
    ALL = "All"


RoleWeight = Annotated[float, Field(ge=0, le=100)]


class RoleWeights(Part):
    """How much the loss of what each role says counts, in conversations; the `weight` of a message multiplies it."""

    assistant: RoleWeight = 1.0
    """Weight of the assistant's answers, each with the end of its turn."""

    user: RoleWeight = 0.0
    """Weight of what the user says."""

    system: RoleWeight = 0.0
    """Weight of system and developer prompts."""

    tool: RoleWeight = 0.0
    """Weight of what tools answer."""

    def of(self, role: str) -> float:
        """The weight of a message of this role."""
        weights = {"assistant": self.assistant, "user": self.user, "tool": self.tool}
        return weights.get(role, self.system)


class SFT(Part):
    """Supervised fine-tuning."""

    train: Trained = Trained.ANSWERS
    """`Answers` trains what the assistant says, up to the end of its turn; `All` trains the prompts too."""

    role_weights: RoleWeights | None = None
    """How much each role's words count, with `train: Answers`; the loss is a mean weighted by them."""


class Reference(StrEnum):
    """What a trained model's log-probabilities are compared with."""

    BASE = "Base"
    COPY = "Copy"
    PRECOMPUTED = "Precomputed"


class DPOLoss(StrEnum):
    """How a pair's difference of log-ratios becomes a loss."""

    SIGMOID = "Sigmoid"
    IPO = "IPO"
    HINGE = "Hinge"


class DPO(Part):
    """Direct preference optimisation (arXiv:2305.18290)."""

    beta: Annotated[float, Field(gt=0, le=100)] = 0.1
    """Strength of the pull towards the reference model; with `IPO` the regularisation that its paper calls tau."""

    loss: DPOLoss = DPOLoss.SIGMOID
    """`Sigmoid`, `IPO` (arXiv:2310.12036, on means over tokens as its authors do), `Hinge` (SLiC, arXiv:2305.10425)."""

    # Below a half; Kubernetes compares a whole number with the whole part of a bound, so that 0 is not below 0.5.
    label_smoothing: Annotated[float, Field(ge=0, le=0.49)] = 0.0
    """Share of the pairs that are taken to be labelled the wrong way round (conservative DPO); with `Sigmoid`."""

    reference: Reference | None = None
    """`Base`: the model with its adapter off, in every step. `Copy`: a second, frozen model on every rank, in every
    step. `Precomputed`: one pass over the data before training, kept beside the checkpoints, so that steps cost less.
    """


class ORPO(Part):
    """Odds ratio preference optimisation, without a reference model (arXiv:2403.07691)."""

    beta: Annotated[float, Field(gt=0, le=100)] = 0.1
    """Weight of the odds ratio beside the cross-entropy of the chosen text; the paper's lambda."""


class KTO(Part):
    """Kahneman-Tversky optimisation, on single judged answers (arXiv:2402.01306)."""

    beta: Annotated[float, Field(gt=0, le=100)] = 0.1
    """Strength of the pull towards the reference model."""

    desirable_weight: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """Weight of the losses of desirable answers; raise the weight of the rarer kind."""

    undesirable_weight: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """Weight of the losses of undesirable answers."""

    reference: Reference | None = None
    """`Base`: the model with its adapter off. `Copy`: a second, frozen model on every rank."""


OptionName = Annotated[str, Field(min_length=1, max_length=64)]
# Not settled before the objective is there; known, so that a manifest for it gets one clear refusal.
OptionValue = Annotated[Any, WithJsonSchema({"x-kubernetes-preserve-unknown-fields": True})]
Options = Annotated[dict[OptionName, OptionValue], Field(max_length=32)]


class Objective(Part):
    """What the training minimises; options stand in a member named like the type."""

    type: ObjectiveType
    """`SFT` trains the answers of conversations and prompts, `CPT` (continued pre-training) trains all of the text;
    `DPO`, `ORPO` and `KTO` prefer one answer to another, `Reward` and `Classification` score texts."""

    sft: SFT | None = None
    """Options of `type: SFT`."""

    dpo: DPO | None = None
    """Options of `type: DPO`."""

    orpo: ORPO | None = None
    """Options of `type: ORPO`."""

    kto: KTO | None = None
    """Options of `type: KTO`."""

    reward: Reward | None = None
    """Options of `type: Reward`."""

    classification: Classification | None = None
    """Options of `type: Classification`."""

    grpo: Options | None = None
    """Options of `type: GRPO`."""


@dataclass(frozen=True)
class Takes:
    """What an objective takes. `formats`: of records. `paired`: a record is two documents, which stand in one row.

    `overlong`: what may become of records longer than a row, the default first. `auto`: the format that `Auto` means,
    where a record's columns do not tell it. `options`: the member of `spec.objective` that holds its options. `scores`:
    the model gets a score head and is no language model any more. `mean`: what its loss is a mean over.
    """

    formats: tuple[Format, ...]
    paired: bool = False
    overlong: tuple[Overlong, ...] = (Overlong.TRUNCATE, Overlong.SPLIT, Overlong.DROP)
    auto: Format | None = None
    options: str | None = None
    scores: bool = False
    mean: str = "token"


CHATS = (Format.AUTO, Format.MESSAGES, Format.SHARE_GPT, Format.ALPACA, Format.PROMPT_COMPLETION)
PAIRS = (Format.AUTO, Format.PREFERENCE)
WHOLE = (Overlong.DROP,)
"""Of an answer that is judged, or compared with another, no part stands for the whole."""

OBJECTIVES: dict[ObjectiveType, Takes] = {
    ObjectiveType.SFT: Takes(CHATS, options="sft"),
    ObjectiveType.CPT: Takes((Format.AUTO, Format.TEXT), overlong=(Overlong.SPLIT, Overlong.TRUNCATE, Overlong.DROP)),
    ObjectiveType.DPO: Takes(PAIRS, paired=True, overlong=WHOLE, options="dpo", mean="pair"),
    ObjectiveType.ORPO: Takes(PAIRS, paired=True, overlong=WHOLE, options="orpo", mean="pair"),
    ObjectiveType.KTO: Takes(
        (Format.AUTO, Format.UNPAIRED_PREFERENCE),
        overlong=WHOLE,
        auto=Format.UNPAIRED_PREFERENCE,
        options="kto",
        mean="answer",
    ),
    ObjectiveType.REWARD: Takes(PAIRS, paired=True, overlong=WHOLE, options="reward", scores=True, mean="pair"),
    ObjectiveType.CLASSIFICATION: Takes(
        (Format.AUTO, Format.CLASSIFICATION),
        overlong=(Overlong.TRUNCATE, Overlong.DROP),
        auto=Format.CLASSIFICATION,
        options="classification",
        scores=True,
        mean="record",
    ),
    ObjectiveType.GRPO: Takes((Format.AUTO,), options="grpo"),
}


def trains_prompts(objective: Objective) -> bool:
    """Whether every token is trained, not only the answers'."""
    if objective.type is ObjectiveType.SFT:
        return objective.sft is not None and objective.sft.train is Trained.ALL
    return objective.type is ObjectiveType.CPT
