"""When and against what the model is evaluated."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_trainer.spec.base import Count, Part
from finetune_trainer.spec.names import EvalName


class EarlyStopping(Part):
    """End the run when the held-out loss no longer falls."""

    patience: Count
    """Evaluations in a row without a new lowest loss after which the run ends."""


class Forgetting(Part):
    """What the change of loss is measured on, with `compareBase`."""

    sample: bool = True
    """A hundred short texts on everything and nothing that come along."""

    sets: Annotated[tuple[EvalName, ...], Field(max_length=32)] = ()
    """Names of `data.eval` sets that training is not about: they count as forgetting, and neither for the best
    checkpoint and early stopping nor for the verdict."""


class Evaluation(Part):
    """When and against what the model is evaluated on `data.eval`; always at the end."""

    every_steps: Count | None = None
    """Optimizer steps between two evaluations."""

    compare_base: bool = False
    """Evaluate the model before training as well, with `model.checkpoint` what that holds, on the same records and
    with examples in its prompt too, so that the result says whether training was worth it; on by default when
    `data.eval` is given."""

    early_stopping: EarlyStopping | None = None
    """End the run when the held-out loss no longer falls."""

    samples: Annotated[int, Field(ge=0, le=100_000)] = 128
    """Records of each held-out set, spread evenly over it, that the models before and after training answer, or
    judge with objectives other than SFT and CPT, and are compared on, record by record; 0 compares nothing."""

    shots: Annotated[int, Field(ge=0, le=64)] = 4
    """Training records that the model before training is shown in its prompt, as many as fit its context; 0 gives it
    no such help."""

    max_new_tokens: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """Longest answer that is generated; twice the longest answer of the compared records when left out, at least 32
    and at most 512 tokens."""

    forgetting: Forgetting = Forgetting()
    """How far training changed the loss on what it was not about."""
