"""Values and members that the format knows and the trainer cannot do yet; each is refused with what works today."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from finetune_trainer.spec.deepspeed import Offload
from finetune_trainer.spec.objective import ObjectiveType

VALUES: frozenset[StrEnum] = frozenset(
    {
        ObjectiveType.GRPO,
        Offload.NVME,
    }
)

OBJECTIVE_OPTIONS = ("grpo",)


def available(choices: Sequence[str]) -> list[str]:
    """Those of an enum's values that work today."""
    return [str(choice) for choice in choices if choice not in VALUES]


def one_of(names: Sequence[str]) -> str:
    """`A`, `A or B`, `A, B or C`."""
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
