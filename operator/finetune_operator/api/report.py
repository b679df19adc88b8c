"""What a run tells of itself: the newest of everything that one attempt has reported."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from finetune_operator.api.status import CheckpointStatus, OutputStatus, Progress
from finetune_trainer.spec.base import Part

PartT = TypeVar("PartT", bound=Part)


@dataclass(frozen=True)
class Failure:
    """How the driver says that it ended; `exit_code` is one of the trainer's, `reason` its word for it."""

    exit_code: int
    reason: str
    message: str


@dataclass(frozen=True)
class Report:
    """What one attempt of a job has told so far; None for what it has not spoken of.

    `at` is when its last event came, `steps_lost` what all restarts of the ranks have thrown away. Only the fields that
    were reported are set in `progress` and `checkpoint` (`model_fields_set`): `laid_over` puts them over what a status
    already holds.
    """

    attempt: int
    at: datetime
    progress: Progress | None = None
    checkpoint: CheckpointStatus | None = None
    output: OutputStatus | None = None
    restarts: int | None = None
    steps_lost: int | None = None
    failure: Failure | None = None
    finished: bool = False


def laid_over(before: PartT | None, after: PartT | None) -> PartT | None:
    """`before`, with the fields that are set in `after` as they are there."""
    if before is None or after is None:
        return before if after is None else after
    return before.model_copy(update={name: getattr(after, name) for name in after.model_fields_set})
