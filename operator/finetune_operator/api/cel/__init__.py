"""CEL: what the API server itself checks of a FineTuneJob and a FineTuneRuntime beyond the types of their fields."""

from __future__ import annotations

from dataclasses import replace

from finetune_operator.api.cel.across import across_rules
from finetune_operator.api.cel.address import address_rules
from finetune_operator.api.cel.changes import CHANGEABLE, CHANGEABLE_WHILE_SUSPENDED, change_rules
from finetune_operator.api.cel.heads import head_rules
from finetune_operator.api.cel.name import name_rule
from finetune_operator.api.cel.notyet import not_yet_rules
from finetune_operator.api.cel.objective import objective_rules
from finetune_operator.api.cel.quantity import cpu_rules, memory_rules
from finetune_operator.api.cel.rule import Rule


def _at_creation(rule: Rule) -> Rule:
    """The rule, kept from updates where nothing that it looks at may change (`change_rules`).

    The API server evaluates all rules at each write, of a status as well, which was half of what such a write cost it.
    Elements of a list have no old self to tell an update by.
    """
    said = " ".join([rule.path, rule.given, *(check.wrong for check in rule.checks)])
    changeable = any(name in said for name in (*CHANGEABLE, *CHANGEABLE_WHILE_SUSPENDED))
    return rule if changeable or "[]" in rule.at else replace(rule, once=True)


JOB_RULES: tuple[Rule, ...] = (
    *map(
        _at_creation,
        (
            name_rule(),
            *not_yet_rules(),
            *address_rules(),
            *cpu_rules("spec.workers.resources.cpu"),
            *memory_rules("spec.workers.resources.memory"),
            *objective_rules(),
            *head_rules(),
            *across_rules(),
        ),
    ),
    *change_rules(),
)
RUNTIME_RULES: tuple[Rule, ...] = (
    *memory_rules("spec.sharedMemory"),
    *memory_rules("spec.gpu.memory"),
    *cpu_rules("spec.head.cpu"),
    *memory_rules("spec.head.memory"),
    *cpu_rules("spec.worker.cpu"),
    *memory_rules("spec.worker.memory"),
)

__all__ = ["JOB_RULES", "RUNTIME_RULES", "Rule"]
