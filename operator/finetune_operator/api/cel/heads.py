"""The rules of `finetune_trainer.spec.rules_heads` in CEL, but for those that compare names with names: too costly."""

from __future__ import annotations

from collections.abc import Iterator

from finetune_operator.api.cel.rule import Check, Rule, rule, text
from finetune_trainer.spec.heads import ProblemType
from finetune_trainer.spec.rules_heads import PATH

GIVEN = {
    "labels": ("has(self.labels) && self.labels.size() > 0", "'a list'"),
    "classWeights": ("has(self.classWeights) && self.classWeights.size() > 0", "'a mapping'"),
    "balanceClasses": ("has(self.balanceClasses) && self.balanceClasses", "True"),
}


def head_rules() -> Iterator[Rule]:
    """Every such rule, in the order of the trainer's."""
    problem = {kind: f"has(self.problem) && self.problem == {text(kind)}" for kind in ProblemType}
    for name, (given, shown) in GIVEN.items():
        yield rule(
            PATH,
            name,
            f"{problem[ProblemType.REGRESSION]} && {given}",
            f"has no effect with problem: {ProblemType.REGRESSION}: remove it, or write problem: "
            f"{ProblemType.SINGLE_LABEL} (got {shown})",
            mirrors="regression_has_no_labels",
        )
    yield rule(
        PATH,
        "labels",
        f"{problem[ProblemType.SINGLE_LABEL]} && has(self.labels) && self.labels.size() == 1",
        "leaves nothing to choose from: name two labels or more, or leave it out to take those of the data "
        "(got 'a list')",
        mirrors="labels_to_choose_from",
    )
    balanced, shown = GIVEN["balanceClasses"]
    several = "weighs single labels against each other: remove it, or write classWeights"
    twice = "weighs the labels, which classWeights do as well: keep one of the two"
    checks = (
        Check(problem[ProblemType.MULTI_LABEL], f"{several} (got {shown})"),
        Check(f"{problem[ProblemType.SINGLE_LABEL]} && {GIVEN['classWeights'][0]}", f"{twice} (got {shown})"),
    )
    yield Rule(PATH, "balanceClasses", checks, "one_way_to_weigh_labels", given=balanced)
