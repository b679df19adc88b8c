"""When and against what the model is evaluated."""

from __future__ import annotations

from finetune_trainer.spec.base import Count, Part


class EarlyStopping(Part):
    """End the run when the held-out loss no longer falls."""

    patience: Count
    """Evaluations in a row without a new lowest loss after which the run ends."""


class Evaluation(Part):
    """When and against what the model is evaluated on `data.eval`; always at the end."""

    every_steps: Count | None = None
    """Optimizer steps between two evaluations."""

    compare_base: bool = False
    """Evaluate the model before training as well, with `model.checkpoint` what that holds; on by default when
    `data.eval` is given."""

    early_stopping: EarlyStopping | None = None
    """End the run when the held-out loss no longer falls."""
