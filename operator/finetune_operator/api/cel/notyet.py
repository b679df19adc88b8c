"""What the manifest's format knows and the trainer cannot do yet, as `finetune_trainer.spec.notyet` has it.

Nothing else depends on these rules: what works is taken out of that table, and its rule is gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from finetune_operator.api.cel.rule import Rule, rule, texts
from finetune_trainer.spec.data import Format
from finetune_trainer.spec.deepspeed import Offload
from finetune_trainer.spec.method import MethodType
from finetune_trainer.spec.notyet import OBJECTIVE_OPTIONS, VALUES, available, one_of
from finetune_trainer.spec.objective import ObjectiveType


def not_yet_rules() -> tuple[Rule, ...]:
    """One rule for each field with values, or without any use, that are for later."""
    return (*_values(), *_members())


def _values() -> Iterator[Rule]:
    today = "values_that_work_today"
    yield from _value("spec.method", "type", MethodType, today)
    yield from _value("spec.objective", "type", ObjectiveType, today)
    for sources in ("spec.data.train[]", "spec.data.eval[]"):
        yield from _value(sources, "format", Format, today)
    for field in ("offloadOptimizer", "offloadParameters"):
        yield from _value("spec.deepspeed", field, Offload, "offload_to_nvme_is_not_there_yet")


def _value(at: str, field: str, kind: type[StrEnum], mirrors: str) -> Iterator[Rule]:
    later = [value for value in kind if value in VALUES]
    message = f"is not available yet: write {one_of(available(list(kind)))} (got '{{self.{field}}}')"
    if later:
        yield rule(at, field, f"self.{field} in {texts(later)}", message, mirrors=mirrors)


def _members() -> Iterator[Rule]:
    for name in OBJECTIVE_OPTIONS:
        message = "is not available yet: remove it (got 'a mapping')"
        yield rule("spec.objective", name, f"has(self.{name})", message, mirrors="objective_options_that_work_today")
