"""The rules of `finetune_trainer.spec.rules_objective` in CEL."""

from __future__ import annotations

from collections.abc import Iterator

from finetune_operator.api.cel.rule import Check, Rule, number, rule, text, texts
from finetune_trainer.spec.data import Overlong
from finetune_trainer.spec.deepspeed import MAX_ZERO_STAGE
from finetune_trainer.spec.method import Initialization, MethodType
from finetune_trainer.spec.model import AdapterUse
from finetune_trainer.spec.notyet import OBJECTIVE_OPTIONS, VALUES, one_of
from finetune_trainer.spec.objective import OBJECTIVES, DPOLoss, ObjectiveType, Reference, Trained
from finetune_trainer.spec.rules_objective import REFERENCES

MOST_ROWS = 1_048_576


def objective_rules() -> Iterator[Rule]:
    """Every rule about an objective and its options, in the order of the trainer's."""
    yield from _options()
    yield _overlong()
    yield rule(
        "spec.objective.sft",
        "roleWeights",
        f"has(self.roleWeights) && has(self.train) && self.train == {text(Trained.ALL)}",
        "has no effect with train: All: remove it, or write train: Answers (got 'a mapping')",
        mirrors="weights_of_answers",
    )
    smoothing = "has(self.labelSmoothing) && self.labelSmoothing > 0.0 && has(self.loss)"
    message = f"has no effect with loss: {{self.loss}}: write 0, or loss: {DPOLoss.SIGMOID}"
    yield rule(
        "spec.objective.dpo",
        "labelSmoothing",
        f"{smoothing} && self.loss != {text(DPOLoss.SIGMOID)}",
        message,
        mirrors="smoothing_of_the_sigmoid",
    )
    batch = f"{{{number('self.training.globalBatchSize', MOST_ROWS)}}}"
    yield rule(
        "spec",
        "training.globalBatchSize",
        f"self.objective.type == {text(ObjectiveType.KTO)} && self.training.globalBatchSize < 2",
        f"leaves KTO no other answer to compare with: write 2 or more (got {batch})",
        mirrors="answers_to_mismatch",
    )
    yield from _references()


def _options() -> Iterator[Rule]:
    for kind, takes in OBJECTIVES.items():
        if takes.options is not None and takes.options not in OBJECTIVE_OPTIONS:
            yield rule(
                "spec.objective",
                takes.options,
                f"has(self.{takes.options}) && self.type != {text(kind)}",
                f"has no effect with type: {{self.type}}: remove it, or write type: {kind} (got 'a mapping')",
                mirrors="objective_options_of_the_type",
            )


def _overlong() -> Rule:
    allowed = dict.fromkeys(takes.overlong for takes in OBJECTIVES.values() if len(takes.overlong) < len(Overlong))
    checks = []
    for overlong in allowed:
        kinds = [k for k, takes in OBJECTIVES.items() if takes.overlong == overlong and k not in VALUES]
        checks.append(
            Check(
                f"self.objective.type in {texts(kinds)} && !(self.data.overlong in {texts(overlong)})",
                f"would cut answers that {{self.objective.type}} judges as a whole: write {one_of(overlong)}, or "
                "leave it out (got '{self.data.overlong}')",
            )
        )
    mirrors = "overlong_records_of_the_objective"
    return Rule("spec", "data.overlong", tuple(checks), mirrors, given="has(self.data.overlong)")


def _references() -> Iterator[Rule]:
    """See `reference_that_there_is`; a reference that is left out is what `fill_spec` makes of it."""
    base, copy, before = (text(one) for one in Reference)
    full = f"self.method.type == {text(MethodType.FULL)}"
    adapted = f"(has(self.model.adapter) && self.model.adapter.use == {text(AdapterUse.CONTINUE)})"
    taken = f"(has(self.method.lora) && self.method.lora.initialization != {text(Initialization.DEFAULT)})"
    for kind, remedies in REFERENCES.items():
        name = OBJECTIVES[kind].options
        given = f"has(self.objective.{name}) && has(self.objective.{name}.reference)"
        fallback = copy if remedies.precomputed else before
        filled = f"({full} || has(self.model.checkpoint) || {adapted} || {taken} ? {fallback} : {base})"
        own = f"({given} ? self.objective.{name}.reference : {filled})"
        checks = [
            *([(f"{own} == {before}", remedies.precomputed)] if remedies.precomputed else []),
            (
                f"{own} == {base} && {full}",
                f"needs an adapter, which method Full has not: write {remedies.without_adapter}",
            ),
            (
                f"{own} == {copy} && self.deepspeed.zeroStage == {MAX_ZERO_STAGE}",
                f"is a whole model on every rank, which zeroStage: 3 is to avoid: {remedies.sharded}, or zeroStage: 2",
            ),
            (
                f"{own} in [{base}, {copy}] && has(self.model.checkpoint)",
                f"is spec.model.uri without the checkpoint that training starts from: {remedies.continued}",
            ),
            (
                f"{own} in [{base}, {copy}] && {adapted}",
                f"is spec.model.uri without the adapter that training starts from: {remedies.adapted}",
            ),
            (
                f"{own} == {base} && {taken}",
                "lacks the part of the weights that {self.method.lora.initialization} takes out of them: write "
                + remedies.without_adapter,
            ),
        ]
        yield Rule(
            "spec",
            f"objective.{name}.reference",
            tuple(Check(wrong, f"{message} (got '{{{own}}}')") for wrong, message in checks),
            "reference_that_there_is",
            given=f"self.objective.type == {text(kind)}",
        )
