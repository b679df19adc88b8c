"""CEL: what the API server itself checks of a FineTuneJob and a FineTuneRuntime beyond the types of their fields."""

from __future__ import annotations

from finetune_operator.api.cel.across import across_rules
from finetune_operator.api.cel.address import address_rules
from finetune_operator.api.cel.changes import change_rules
from finetune_operator.api.cel.heads import head_rules
from finetune_operator.api.cel.name import name_rule
from finetune_operator.api.cel.notyet import not_yet_rules
from finetune_operator.api.cel.objective import objective_rules
from finetune_operator.api.cel.quantity import cpu_rules, memory_rules
from finetune_operator.api.cel.rule import Rule

JOB_RULES: tuple[Rule, ...] = (
    name_rule(),
    *not_yet_rules(),
    *address_rules(),
    *cpu_rules("spec.workers.resources.cpu"),
    *memory_rules("spec.workers.resources.memory"),
    *objective_rules(),
    *head_rules(),
    *across_rules(),
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
