"""Where and how often the training state is saved."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_trainer.spec.base import Count, Part, Seconds
from finetune_trainer.spec.uri import StoreUri


class Checkpoint(Part):
    """Where and how often the training state is saved; `everySteps`, `everySeconds` or both."""

    uri: StoreUri
    """Folder for checkpoints, `s3://bucket/folder` or `file:///folder`; several jobs may share it."""

    every_steps: Count | None = None
    """Optimizer steps between two checkpoints."""

    every_seconds: Seconds | None = None
    """Seconds between two checkpoints."""

    keep_last: Annotated[int, Field(ge=1, le=1000)] = 2
    """Newest checkpoints to keep; two, so that one is left when the newest turns out damaged."""

    keep_best: Annotated[int, Field(ge=0, le=1000)] = 0
    """Checkpoints with the lowest held-out loss to keep as well; 1 is chosen when `evaluation.everySteps` is set."""
