"""The rules about an objective and its options, each with its message."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from finetune_trainer.errors import Problem
from finetune_trainer.spec.deepspeed import MAX_ZERO_STAGE
from finetune_trainer.spec.job import FineTuneJob
from finetune_trainer.spec.method import MethodType
from finetune_trainer.spec.notyet import OBJECTIVE_OPTIONS, VALUES, one_of
from finetune_trainer.spec.objective import OBJECTIVES, DPOLoss, ObjectiveType, Reference, Trained
from finetune_trainer.spec.rule import RuleBook

OBJECTIVE_RULES = RuleBook()


class Remedies(NamedTuple):
    """What to write instead of a reference that an objective cannot have; `precomputed`: why not that, if not."""

    without_adapter: str
    sharded: str
    continued: str
    adapted: str
    precomputed: str | None = None


REFERENCES = {
    ObjectiveType.DPO: Remedies("Precomputed", "write Precomputed", "write Precomputed", "write Precomputed"),
    ObjectiveType.KTO: Remedies(
        "Copy",
        "write Base with method LoRA",
        "export that run, and name its output as spec.model.uri",
        "write use: Merge",
        "cannot hold the answers that each step pairs with other prompts: write Base or Copy",
    ),
}


@OBJECTIVE_RULES.rule("spec.objective")
def objective_options_that_work_today(job: FineTuneJob) -> Iterator[Problem]:
    for name in OBJECTIVE_OPTIONS:
        if getattr(job.spec.objective, name) is not None:
            yield Problem(f"spec.objective.{name}", "a mapping", "is not available yet: remove it")


@OBJECTIVE_RULES.rule("spec.objective.type")
def objective_options_of_the_type(job: FineTuneJob) -> Iterator[Problem]:
    objective = job.spec.objective
    for kind, takes in OBJECTIVES.items():
        given = takes.options is not None and getattr(objective, takes.options) is not None
        if given and objective.type is not kind and takes.options not in OBJECTIVE_OPTIONS:
            message = f"has no effect with type: {objective.type}: remove it, or write type: {kind}"
            yield Problem(f"spec.objective.{takes.options}", "a mapping", message)


@OBJECTIVE_RULES.rule("spec.objective.type", "spec.data.overlong")
def overlong_records_of_the_objective(job: FineTuneJob) -> Iterator[Problem]:
    objective, overlong = job.spec.objective.type, job.spec.data.overlong
    allowed = OBJECTIVES[objective].overlong
    if objective not in VALUES and overlong not in allowed:
        message = f"would cut answers that {objective} judges as a whole: write {one_of(allowed)}, or leave it out"
        yield Problem("spec.data.overlong", str(overlong), message)


@OBJECTIVE_RULES.rule("spec.objective.sft.train", "spec.objective.sft.roleWeights")
def weights_of_answers(job: FineTuneJob) -> Iterator[Problem]:
    sft = job.spec.objective.sft
    if sft is not None and sft.role_weights is not None and sft.train is Trained.ALL:
        message = "has no effect with train: All: remove it, or write train: Answers"
        yield Problem("spec.objective.sft.roleWeights", "a mapping", message)


@OBJECTIVE_RULES.rule("spec.objective.dpo.loss", "spec.objective.dpo.labelSmoothing")
def smoothing_of_the_sigmoid(job: FineTuneJob) -> Iterator[Problem]:
    dpo = job.spec.objective.dpo
    if dpo is not None and dpo.label_smoothing and dpo.loss is not DPOLoss.SIGMOID:
        message = f"has no effect with loss: {dpo.loss}: write 0, or loss: {DPOLoss.SIGMOID}"
        yield Problem("spec.objective.dpo.labelSmoothing", dpo.label_smoothing, message)


@OBJECTIVE_RULES.rule("spec.objective.type", "spec.training.globalBatchSize")
def answers_to_mismatch(job: FineTuneJob) -> Iterator[Problem]:
    if job.spec.objective.type is ObjectiveType.KTO and job.spec.training.global_batch_size < 2:
        message = "leaves KTO no other answer to compare with: write 2 or more"
        yield Problem("spec.training.globalBatchSize", job.spec.training.global_batch_size, message)


@OBJECTIVE_RULES.rule("spec.objective", "spec.method", "spec.model", "spec.deepspeed.zeroStage")
def reference_that_there_is(job: FineTuneJob) -> Iterator[Problem]:
    objective = job.spec.objective
    remedies = REFERENCES.get(objective.type)
    name = OBJECTIVES[objective.type].options
    options = getattr(objective, name) if remedies and name else None
    if remedies is None or options is None:
        return
    message = _problem_of_reference(job, options.reference, remedies)
    if message is not None:
        yield Problem(f"spec.objective.{name}.reference", str(options.reference), message)


def _problem_of_reference(job: FineTuneJob, reference: Reference | None, remedies: Remedies) -> str | None:
    spec = job.spec
    if reference is Reference.PRECOMPUTED:
        return remedies.precomputed
    if reference is Reference.BASE and spec.method.type is MethodType.FULL:
        return f"needs an adapter, which method Full has not: write {remedies.without_adapter}"
    if reference is Reference.COPY and spec.deepspeed.zero_stage == MAX_ZERO_STAGE:
        return f"is a whole model on every rank, which zeroStage: 3 is to avoid: {remedies.sharded}, or zeroStage: 2"
    if reference is not None and spec.model.checkpoint is not None:
        return f"is spec.model.uri without the checkpoint that training starts from: {remedies.continued}"
    if reference is not None and spec.model.continued_adapter is not None:
        return f"is spec.model.uri without the adapter that training starts from: {remedies.adapted}"
    if reference is Reference.BASE and spec.method.lora and spec.method.lora.takes_weights:
        taken = spec.method.lora.initialization
        return f"lacks the part of the weights that {taken} takes out of them: write {remedies.without_adapter}"
    return None
