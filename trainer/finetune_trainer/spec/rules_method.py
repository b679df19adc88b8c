"""The cross-field rules about the method, and about the adapter or tokens that the model gets before it is trained."""

from __future__ import annotations

from collections.abc import Iterator

from finetune_trainer.errors import Problem
from finetune_trainer.spec.job import FineTuneJob
from finetune_trainer.spec.messages import MISSING
from finetune_trainer.spec.method import ALL_LINEAR, MethodType
from finetune_trainer.spec.model import AdapterUse
from finetune_trainer.spec.output import OutputFormat
from finetune_trainer.spec.rule import RuleBook

METHOD_RULES = RuleBook()

OPTIONS = {
    "lora": (MethodType.LORA, MethodType.QLORA),
    "qlora": (MethodType.QLORA,),
    "full": (MethodType.FULL,),
}
"""The methods that each member of options is for."""

SHARDED_WEIGHTS = 3
QUANTISED = "cannot take weights of 4 bits apart: write 2, or type: LoRA"
NO_INITIALIZATION = {
    "quantised": "takes a part out of the weights, which QLoRA holds in 4 bits: write Default, or type: LoRA",
    "sharded": "decomposes whole weights, which zeroStage 3 takes apart: write Default, or zeroStage: 2",
    "dora": "cannot be exported for the model's own weights with dora: write Default, or dora: false",
    "adapter": "is for new adapters, and spec.model.adapter has values already: write Default",
}
SHARDED_TOKENS = (
    "need more rows in embeddings that zeroStage 3 takes apart: write zeroStage: 2 or less, or add them to the model's "
    "folder beforehand"
)
TWO_STARTS = "cannot stand beside checkpoint: keep one of the two"
CONTINUE_FULL = "trains adapters, and type: Full trains none: write Merge, or type: LoRA"
MERGED_BASE = "would fit merged weights only, which are stored nowhere: write Merged, or use: Continue for the adapter"


@METHOD_RULES.rule("spec.method.type", "spec.method.lora.targetModules[*]")
def lora_options_for_lora(job: FineTuneJob) -> Iterator[Problem]:
    method = job.spec.method
    for name, methods in OPTIONS.items():
        if getattr(method, name) is not None and method.type not in methods:
            message = f"has no effect with type: {method.type}: remove it, or write type: {methods[0]}"
            yield Problem(f"spec.method.{name}", "a mapping", message)
    targets = method.lora.target_modules if method.lora else ()
    if ALL_LINEAR in targets and len(targets) > 1:
        message = "all-linear names every linear layer already: write it alone, or remove it"
        yield Problem("spec.method.lora.targetModules", list(targets), message)


@METHOD_RULES.rule("spec.method.lora.perModule[].rank", "spec.method.lora.perModule[].alpha")
def other_rank_or_alpha(job: FineTuneJob) -> Iterator[Problem]:
    lora = job.spec.method.lora
    for index, entry in enumerate(lora.per_module if lora else ()):
        if entry.rank is None and entry.alpha is None:
            message = "is required unless alpha is given: write for instance rank: 64"
            yield Problem(f"spec.method.lora.perModule[{index}].rank", MISSING, message)


@METHOD_RULES.rule("spec.method.type", "spec.deepspeed.zeroStage")
def quantised_weights_are_whole(job: FineTuneJob) -> Iterator[Problem]:
    stage = job.spec.deepspeed.zero_stage
    if job.spec.method.type is MethodType.QLORA and stage == SHARDED_WEIGHTS:
        yield Problem("spec.deepspeed.zeroStage", stage, QUANTISED)


@METHOD_RULES.rule(
    "spec.method.type",
    "spec.method.lora.initialization",
    "spec.method.lora.dora",
    "spec.deepspeed.zeroStage",
    "spec.model.adapter",
)
def initialization_has_whole_weights(job: FineTuneJob) -> Iterator[Problem]:
    spec, lora = job.spec, job.spec.method.lora
    if lora is None or not lora.takes_weights:
        return
    wrong = {
        "quantised": spec.method.type is MethodType.QLORA,
        "sharded": spec.deepspeed.zero_stage == SHARDED_WEIGHTS,
        "dora": lora.dora,
        "adapter": spec.model.continued_adapter is not None,
    }
    for reason in [reason for reason, holds in wrong.items() if holds][:1]:
        yield Problem("spec.method.lora.initialization", str(lora.initialization), NO_INITIALIZATION[reason])


@METHOD_RULES.rule("spec.model.addedTokens", "spec.deepspeed.zeroStage")
def added_tokens_have_whole_embeddings(job: FineTuneJob) -> Iterator[Problem]:
    if job.spec.model.added_tokens and job.spec.deepspeed.zero_stage == SHARDED_WEIGHTS:
        yield Problem("spec.model.addedTokens", "a list", SHARDED_TOKENS)


@METHOD_RULES.rule("spec.model.adapter", "spec.model.checkpoint")
def one_start(job: FineTuneJob) -> Iterator[Problem]:
    if job.spec.model.adapter is not None and job.spec.model.checkpoint is not None:
        yield Problem("spec.model.adapter", "a mapping", TWO_STARTS)


@METHOD_RULES.rule("spec.model.adapter", "spec.method.type", "spec.output.format")
def adapter_of_the_method(job: FineTuneJob) -> Iterator[Problem]:
    adapter = job.spec.model.adapter
    if adapter is None:
        return
    if adapter.use is AdapterUse.CONTINUE and job.spec.method.type is MethodType.FULL:
        yield Problem("spec.model.adapter.use", str(adapter.use), CONTINUE_FULL)
    if adapter.use is AdapterUse.MERGE and job.spec.output.format is OutputFormat.ADAPTER:
        yield Problem("spec.output.format", str(job.spec.output.format), MERGED_BASE)
