"""What of a job's spec may change while it exists: whether it runs and for how long, never what it computes."""

from __future__ import annotations

from collections.abc import Iterator

from finetune_operator.api.cel.rule import Rule, rule
from finetune_trainer.spec import JobSpec

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
    """One rule for each member of the spec that may not change, or not always."""
    return tuple(_rules())


def _rules() -> Iterator[Rule]:
    for field in JobSpec.model_fields.values():
        name = str(field.alias)
        same = f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})"
        differs = f"self.{name} != oldSelf.{name}" if field.is_required() else f"!({same})"
        if name in CHANGEABLE_WHILE_SUSPENDED:
            differs, message = f"{differs} && !self.suspend && !oldSelf.suspend", SUSPEND_FIRST
        else:
            message = FIXED
        if name not in CHANGEABLE:
            yield rule("spec", name, differs, message, mirrors="", reason="FieldValueForbidden")
