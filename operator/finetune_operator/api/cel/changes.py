"""What of a job's spec may change while it exists: whether it runs and for how long, never what it computes.

The API server evaluates all of this at every write of a status. A member of an object costs it a walk over all the
fields that the object may have, so what can be compared is compared where it stands; and to compare two objects costs
the square of their members, so `spec.training`, which has many, is compared member by member.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic.fields import FieldInfo

from finetune_operator.api.cel.rule import Rule, rule
from finetune_trainer.spec import JobSpec
from finetune_trainer.spec.training import Training

CHANGEABLE = (
    "suspend",
    "failurePolicy",
    "startDeadlineSeconds",
    "activeDeadlineSeconds",
    "noProgressDeadlineSeconds",
    "terminationGracePeriodSeconds",
    "ttlSecondsAfterFinished",
)
CHANGEABLE_WHILE_SUSPENDED = ("queueName",)

FIXED = "cannot be changed: give the job another metadata.name, or delete it first (what it wrote to storage stays)"
SUSPEND_FIRST = "can be changed only while the job is suspended: set suspend: true as well"


def change_rules() -> tuple[Rule, ...]:
    """Rules for each member of the spec that may not change, or not always: its value, and whether it is there."""
    return tuple(_rules())


def _rules() -> Iterator[Rule]:
    for name, field in JobSpec.model_fields.items():
        if name == "training":
            for one in Training.model_fields.values():
                yield from _fixed("spec.training", one)
        elif field.alias in CHANGEABLE_WHILE_SUSPENDED:
            yield _fixed_while_running("spec", field)
        elif field.alias not in CHANGEABLE:
            yield from _fixed("spec", field)


def _fixed(at: str, field: FieldInfo) -> Iterator[Rule]:
    yield rule(f"{at}.{field.alias}", "", "self != oldSelf", FIXED, mirrors="", reason="FieldValueForbidden")
    if not _filled_in(field):
        yield rule(at, str(field.alias), _came_or_went(field), FIXED, mirrors="", reason="FieldValueForbidden")


def _filled_in(field: FieldInfo) -> bool:
    """Whether the field is always there: required, or with a default, which the API server fills in."""
    return field.default is not None


def _fixed_while_running(at: str, field: FieldInfo) -> Rule:
    differs = f"({_came_or_went(field)} || (has(self.{field.alias}) && self.{field.alias} != oldSelf.{field.alias}))"
    wrong = f"{differs} && !self.suspend && !oldSelf.suspend"
    return rule(at, str(field.alias), wrong, SUSPEND_FIRST, mirrors="", reason="FieldValueForbidden")


def _came_or_went(field: FieldInfo) -> str:
    return f"has(self.{field.alias}) != has(oldSelf.{field.alias})"
