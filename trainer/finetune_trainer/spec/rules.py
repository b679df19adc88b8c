"""The rules that need more than one field, each with its message; what one field alone can tell, its type checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from finetune_trainer.errors import Problem
from finetune_trainer.spec.cluster import FailureReason
from finetune_trainer.spec.data import Format, Source
from finetune_trainer.spec.deepspeed import MAX_ZERO_STAGE, Offload
from finetune_trainer.spec.derived import ranks, run_id
from finetune_trainer.spec.job import FineTuneJob
from finetune_trainer.spec.messages import MISSING, shown_path
from finetune_trainer.spec.method import MethodType
from finetune_trainer.spec.notyet import VALUES, available, one_of
from finetune_trainer.spec.objective import OBJECTIVES
from finetune_trainer.spec.output import OutputFormat
from finetune_trainer.spec.overrides import check_value
from finetune_trainer.spec.rule import RuleBook
from finetune_trainer.spec.rules_heads import HEAD_RULES
from finetune_trainer.spec.rules_method import METHOD_RULES
from finetune_trainer.spec.rules_objective import OBJECTIVE_RULES
from finetune_trainer.spec.uri import is_inside

RULES = RuleBook(OBJECTIVE_RULES, HEAD_RULES, METHOD_RULES)

FORMATS = {kind: takes.formats for kind, takes in OBJECTIVES.items() if kind not in VALUES}
COLUMNS = {
    Format.MESSAGES: ("messages", "tools"),
    Format.SHARE_GPT: ("conversations", "system", "tools"),
    Format.ALPACA: ("instruction", "output", "input", "history"),
    Format.PROMPT_COMPLETION: ("prompt", "completion", "tools"),
    Format.TEXT: ("text",),
    Format.PREFERENCE: ("chosen", "rejected", "prompt", "margin", "tools"),
    Format.UNPAIRED_PREFERENCE: ("prompt", "completion", "label", "tools"),
    Format.CLASSIFICATION: ("label", "text", "messages", "tools"),
}
OUTPUTS = {
    MethodType.FULL: (OutputFormat.FULL,),
    MethodType.LORA: (OutputFormat.ADAPTER, OutputFormat.MERGED),
    MethodType.QLORA: (OutputFormat.ADAPTER, OutputFormat.MERGED),
}


def _sources(job: FineTuneJob) -> Iterator[tuple[str, Source]]:
    for index, train in enumerate(job.spec.data.train):
        yield f"spec.data.train[{index}]", train
    for index, held_out in enumerate(job.spec.data.eval):
        yield f"spec.data.eval[{index}]", held_out


@RULES.rule("spec.method.type", "spec.objective.type", "spec.data.train[].format", "spec.data.eval[].format")
def values_that_work_today(job: FineTuneJob) -> Iterator[Problem]:
    spec = job.spec
    chosen = [("spec.method.type", spec.method.type), ("spec.objective.type", spec.objective.type)]
    chosen += [(f"{path}.format", source.format) for path, source in _sources(job)]
    for path, value in chosen:
        if value in VALUES:
            yield Problem(path, str(value), f"is not available yet: write {one_of(available(list(type(value))))}")


@RULES.rule("spec.deepspeed.offloadOptimizer", "spec.deepspeed.offloadParameters")
def offload_to_nvme_is_not_there_yet(job: FineTuneJob) -> Iterator[Problem]:
    places = {"offloadOptimizer": job.spec.deepspeed.offload_optimizer}
    places["offloadParameters"] = job.spec.deepspeed.offload_parameters
    for name, value in places.items():
        if value is Offload.NVME:
            yield Problem(f"spec.deepspeed.{name}", str(value), "is not available yet: write None or CPU")


@RULES.rule("spec.workers.minReplicas", "spec.workers.replicas")
def fewest_workers_are_no_more_than_all(job: FineTuneJob) -> Iterator[Problem]:
    fewest, most = job.spec.workers.min_replicas, job.spec.workers.replicas
    if fewest is not None and fewest > most:
        message = f"is more than spec.workers.replicas, {most}: write {most} or less, or leave it out"
        yield Problem("spec.workers.minReplicas", fewest, message)


@RULES.rule("spec.training.epochs", "spec.training.maxSteps")
def one_way_to_end(job: FineTuneJob) -> Iterator[Problem]:
    training = job.spec.training
    if training.epochs is None and training.max_steps is None:
        message = "is required unless maxSteps is given: write for instance epochs: 1"
        yield Problem("spec.training.epochs", MISSING, message)
    if training.epochs is not None and training.max_steps is not None:
        yield Problem("spec.training.maxSteps", training.max_steps, "cannot stand beside epochs: keep one of the two")


@RULES.rule("spec.training.globalBatchSize", "spec.workers.replicas", "spec.workers.gpusPerReplica")
def a_row_for_every_rank(job: FineTuneJob) -> Iterator[Problem]:
    batch, world_size = job.spec.training.global_batch_size, ranks(job)
    if batch < world_size:
        message = (
            f"is smaller than the number of ranks, {world_size} (replicas x max(1, gpusPerReplica)): "
            f"write {world_size} or more, or fewer replicas or GPUs in spec.workers"
        )
        yield Problem("spec.training.globalBatchSize", batch, message)


@RULES.rule("spec.training.globalBatchSize", "spec.training.microBatchSize")
def whole_micro_batches(job: FineTuneJob) -> Iterator[Problem]:
    batch, micro_batch = job.spec.training.global_batch_size, job.spec.training.micro_batch_size
    if micro_batch is not None and batch % micro_batch:
        above = -(-batch // micro_batch) * micro_batch
        below = above - micro_batch
        advice = f"{below} or {above}" if below else f"{above}"
        message = f"is no multiple of microBatchSize, {micro_batch}: write {advice}, or leave microBatchSize out"
        yield Problem("spec.training.globalBatchSize", batch, message)


@RULES.rule("spec.method.type", "spec.output.format")
def output_of_the_method(job: FineTuneJob) -> Iterator[Problem]:
    method, written = job.spec.method.type, job.spec.output.format
    if method in OUTPUTS and written not in OUTPUTS[method]:
        message = f"does not come out of method {method}: write {one_of(OUTPUTS[method])}, or leave it out"
        yield Problem("spec.output.format", str(written), message)


@RULES.rule("spec.objective.type", "spec.data.train[].format", "spec.data.eval[].format")
def format_of_the_objective(job: FineTuneJob) -> Iterator[Problem]:
    objective = job.spec.objective.type
    for path, source in _sources(job):
        if objective in FORMATS and source.format not in FORMATS[objective] and source.format not in VALUES:
            message = f"does not suit objective {objective}: write {one_of(FORMATS[objective])}"
            yield Problem(f"{path}.format", str(source.format), message)


@RULES.rule("spec.data.train[].format", "spec.data.eval[].format")
def columns_of_the_format(job: FineTuneJob) -> Iterator[Problem]:
    every = tuple(dict.fromkeys(name for names in COLUMNS.values() for name in names))
    known_of = {**COLUMNS, Format.AUTO: every}  # of formats for later, nothing is known
    for path, source in _sources(job):
        known = known_of.get(source.format)
        for name, column in source.columns.items():
            if known and name not in known:
                message = f"is no column of format {source.format}: write {one_of(known)} before the colon"
                yield Problem(f"{path}.{shown_path(('columns', name))}", column, message)


@RULES.rule("spec.data.eval[*].name")
def held_out_sets_have_their_own_names(job: FineTuneJob) -> Iterator[Problem]:
    seen: Counter[str] = Counter()
    for index, held_out in enumerate(job.spec.data.eval):
        seen[held_out.name] += 1
        if seen[held_out.name] > 1:
            message = "is the name of an earlier set too: write another name"
            yield Problem(f"spec.data.eval[{index}].name", held_out.name, message)


@RULES.rule("spec.data.eval", "spec.evaluation.everySteps", "spec.checkpoint.keepBest")
def evaluation_has_data(job: FineTuneJob) -> Iterator[Problem]:
    evaluation, advice = job.spec.evaluation, "needs held-out data: add spec.data.eval, or remove this"
    if job.spec.data.eval:
        return
    if evaluation.every_steps is not None:
        yield Problem("spec.evaluation.everySteps", evaluation.every_steps, advice)
    if evaluation.compare_base:
        yield Problem("spec.evaluation.compareBase", evaluation.compare_base, advice)
    if evaluation.early_stopping is not None:
        yield Problem("spec.evaluation.earlyStopping", "a mapping", advice)
    if job.spec.checkpoint.keep_best:
        yield Problem("spec.checkpoint.keepBest", job.spec.checkpoint.keep_best, advice)


@RULES.rule("spec.data.eval", "spec.evaluation.everySteps", "spec.checkpoint.keepBest")
def choosing_needs_evaluations(job: FineTuneJob) -> Iterator[Problem]:
    evaluation, advice = (
        job.spec.evaluation,
        "needs evaluations during the run: add spec.evaluation.everySteps",
    )
    if evaluation.every_steps is not None or not job.spec.data.eval:
        return
    if evaluation.early_stopping is not None:
        yield Problem("spec.evaluation.earlyStopping", "a mapping", advice)
    if job.spec.checkpoint.keep_best:
        yield Problem("spec.checkpoint.keepBest", job.spec.checkpoint.keep_best, advice)


@RULES.rule("spec.checkpoint.everySteps", "spec.checkpoint.everySeconds")
def checkpoints_happen(job: FineTuneJob) -> Iterator[Problem]:
    checkpoint = job.spec.checkpoint
    if checkpoint.every_steps is None and checkpoint.every_seconds is None:
        message = "is required unless everySeconds is given: write for instance everySteps: 200 or everySeconds: 1800"
        yield Problem("spec.checkpoint.everySteps", MISSING, message)


@RULES.rule("spec.deepspeed.zeroStage", "spec.deepspeed.offloadOptimizer")
def offloaded_optimizer_is_sharded(job: FineTuneJob) -> Iterator[Problem]:
    deepspeed = job.spec.deepspeed
    if deepspeed.offload_optimizer is not Offload.NONE and deepspeed.zero_stage < 1:
        message = "needs zeroStage 1, 2 or 3: raise spec.deepspeed.zeroStage, or write None"
        yield Problem("spec.deepspeed.offloadOptimizer", str(deepspeed.offload_optimizer), message)


@RULES.rule("spec.deepspeed.zeroStage", "spec.deepspeed.offloadParameters")
def offloaded_parameters_are_sharded(job: FineTuneJob) -> Iterator[Problem]:
    deepspeed = job.spec.deepspeed
    if deepspeed.offload_parameters is not Offload.NONE and deepspeed.zero_stage < MAX_ZERO_STAGE:
        message = "needs zeroStage: 3: raise spec.deepspeed.zeroStage, or write None"
        yield Problem("spec.deepspeed.offloadParameters", str(deepspeed.offload_parameters), message)


@RULES.rule("spec.deepspeed.zeroStage")
def overrides_have_an_effect(job: FineTuneJob) -> Iterator[Problem]:
    stage = job.spec.deepspeed.zero_stage
    for key, value in job.spec.deepspeed.overrides.items():
        path = shown_path(("spec", "deepspeed", "overrides", key))
        if wrong := check_value(key, value):
            yield Problem(path, value, wrong)
        elif key.startswith("zero_optimization.stage3_") and stage < MAX_ZERO_STAGE:
            yield Problem(path, value, f"has no effect with zeroStage {stage}: remove it, or write zeroStage: 3")
        elif key.startswith("zero_optimization.") and stage < 1:
            yield Problem(path, value, "has no effect with zeroStage 0: remove it, or write zeroStage: 1 or more")


@RULES.rule("spec.output.uri", "spec.checkpoint.uri", "metadata.name", "metadata.namespace", "metadata.uid")
def output_beside_checkpoints(job: FineTuneJob) -> Iterator[Problem]:
    output, checkpoints = job.spec.output.uri, job.spec.checkpoint.uri
    if is_inside(output, checkpoints) and is_inside(checkpoints, output):
        yield Problem("spec.output.uri", output, "is spec.checkpoint.uri as well: write another folder")
    elif is_inside(output, f"{checkpoints.rstrip('/')}/{run_id(job)}"):
        yield Problem("spec.output.uri", output, "lies among this run's checkpoints: write a folder outside")


@RULES.rule("spec.output.uri", "spec.model.uri")
def output_beside_the_model(job: FineTuneJob) -> Iterator[Problem]:
    output, model = job.spec.output.uri, job.spec.model.uri
    if is_inside(output, model) and is_inside(model, output):
        yield Problem("spec.output.uri", output, "is the model that training starts from: write another folder")


@RULES.rule("spec.failurePolicy.rules[*].reasons[*]")
def one_budget_for_a_reason(job: FineTuneJob) -> Iterator[Problem]:
    seen: set[FailureReason] = set()
    for index, rule in enumerate(job.spec.failure_policy.rules):
        for place, reason in enumerate(rule.reasons):
            if reason in seen:
                path = f"spec.failurePolicy.rules[{index}].reasons[{place}]"
                yield Problem(path, str(reason), "has a budget already: remove one of the two")
            seen.add(reason)
