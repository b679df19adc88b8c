"""What the stream has to know of the manifest."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_trainer.data.label_set import LabelSet
from finetune_trainer.spec.data import Overlong, Packing
from finetune_trainer.spec.job import JobSpec
from finetune_trainer.spec.objective import OBJECTIVES, ObjectiveType, RoleWeights, trains_prompts


@dataclass(frozen=True)
class DataSettings:
    """Lengths in tokens, batch sizes in rows; exactly one of `epochs` and `max_steps` is set.

    `train_prompts`: every token is trained, as continued pre-training asks for, instead of the answers alone.
    `role_weights`: how much what each role says counts, where not only the answers do.
    `paired`: a record is two documents, which stand in the same row. `scored`: documents are read as a whole and given
    a label, one of `labels`, which are those of the training data. `max_bad_ratio`: share of an epoch's records that
    may be bad.
    """

    max_length: int
    global_batch_size: int
    micro_batch_size: int
    seed: int = 0
    epochs: int | None = None
    max_steps: int | None = None
    overlong: Overlong = Overlong.TRUNCATE
    packing: Packing = Packing.BEST_FIT
    max_bad_ratio: float = 0.001
    train_prompts: bool = False
    paired: bool = False
    role_weights: RoleWeights | None = None
    scored: bool = False
    labels: LabelSet | None = None

    @classmethod
    def of(cls, spec: JobSpec, micro_batch_size: int) -> DataSettings:
        """The settings of a manifest; `micro_batch_size` is the one chosen where the manifest leaves it out."""
        return cls(
            max_length=spec.data.max_length,
            global_batch_size=spec.training.global_batch_size,
            micro_batch_size=micro_batch_size,
            seed=spec.training.seed,
            epochs=spec.training.epochs,
            max_steps=spec.training.max_steps,
            overlong=spec.data.overlong,
            packing=spec.data.packing,
            max_bad_ratio=spec.data.bad_records.max_ratio,
            train_prompts=trains_prompts(spec.objective),
            role_weights=spec.objective.sft.role_weights if spec.objective.sft else None,
            paired=OBJECTIVES[spec.objective.type].paired,
            scored=spec.objective.type is ObjectiveType.CLASSIFICATION,
        )
