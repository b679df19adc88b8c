"""The rules of `finetune_trainer.spec.rules_method` in CEL, and the formats that come out of each method."""

from __future__ import annotations

from collections.abc import Iterator

from finetune_operator.api.cel.rule import Check, Rule, rule, text, texts
from finetune_trainer.spec.method import ALL_LINEAR, Initialization, MethodType
from finetune_trainer.spec.model import AdapterUse
from finetune_trainer.spec.notyet import one_of
from finetune_trainer.spec.output import OutputFormat
from finetune_trainer.spec.rules import OUTPUTS
from finetune_trainer.spec.rules_method import (
    CONTINUE_FULL,
    MERGED_BASE,
    NO_INITIALIZATION,
    OPTIONS,
    QUANTISED,
    SHARDED_TOKENS,
    SHARDED_WEIGHTS,
    TWO_STARTS,
)

QLORA = f"self.method.type == {text(MethodType.QLORA)}"
STAGE_3 = f"self.deepspeed.zeroStage == {SHARDED_WEIGHTS}"


def method_rules() -> Iterator[Rule]:
    """Every rule about the method, in the order of the trainer's."""
    yield from _options()
    yield rule(
        "spec.method.lora.perModule[]",
        "rank",
        "!has(self.rank) && !has(self.alpha)",
        "is required unless alpha is given: write for instance rank: 64 (got nothing)",
        mirrors="other_rank_or_alpha",
        reason="FieldValueRequired",
    )
    name = "quantised_weights_are_whole"
    yield rule("spec", "deepspeed.zeroStage", f"{QLORA} && {STAGE_3}", f"{QUANTISED} (got 3)", mirrors=name)
    yield _initialization()
    message = f"{SHARDED_TOKENS} (got 'a list')"
    tokens = "has(self.model.addedTokens) && self.model.addedTokens.size() > 0"
    name = "added_tokens_have_whole_embeddings"
    yield rule("spec", "model.addedTokens", f"{tokens} && {STAGE_3}", message, mirrors=name)
    both = "has(self.adapter) && has(self.checkpoint)"
    yield rule("spec.model", "adapter", both, f"{TWO_STARTS} (got 'a mapping')", mirrors="one_start")
    yield from _adapter()
    yield _outputs()


def _options() -> Iterator[Rule]:
    name = "lora_options_for_lora"
    for member, methods in OPTIONS.items():
        wrong = f"has(self.{member}) && !(self.type in {texts(methods)})"
        message = f"has no effect with type: {{self.type}}: remove it, or write type: {methods[0]} (got 'a mapping')"
        yield rule("spec.method", member, wrong, message, mirrors=name)
    targets = f"{text(ALL_LINEAR)} in self.targetModules && self.targetModules.size() > 1"
    message = (
        f"{ALL_LINEAR} names every linear layer already: write it alone, or remove it "
        """(got ['{self.targetModules.join("', '")}'])"""
    )
    yield rule("spec.method.lora", "targetModules", targets, message, mirrors=name)


def _initialization() -> Rule:
    lora = "self.method.lora"
    wrong = {
        "quantised": QLORA,
        "sharded": STAGE_3,
        "dora": f"{lora}.dora",
        "adapter": f"has(self.model.adapter) && self.model.adapter.use == {text(AdapterUse.CONTINUE)}",
    }
    return Rule(
        "spec",
        "method.lora.initialization",
        tuple(Check(wrong[reason], message) for reason, message in NO_INITIALIZATION.items()),
        "initialization_has_whole_weights",
        found=f"{lora}.initialization",
        given=f"has({lora}) && {lora}.initialization != {text(Initialization.DEFAULT)}",
    )


def _adapter() -> Iterator[Rule]:
    name = "adapter_of_the_method"
    use = "has(self.model.adapter) && self.model.adapter.use"
    wrong = f"self.method.type == {text(MethodType.FULL)} && {use} == {text(AdapterUse.CONTINUE)}"
    yield rule("spec", "model.adapter.use", wrong, f"{CONTINUE_FULL} (got 'Continue')", mirrors=name)
    adapter = f"has(self.output.format) && self.output.format == {text(OutputFormat.ADAPTER)}"
    wrong = f"{adapter} && {use} == {text(AdapterUse.MERGE)}"
    yield rule("spec", "output.format", wrong, f"{MERGED_BASE} (got 'Adapter')", mirrors=name)


def _outputs() -> Rule:
    checks = [
        Check(
            f"self.method.type == {text(method)} && !(self.output.format in {texts(formats)})",
            f"does not come out of method {method}: write {one_of(formats)}, or leave it out "
            "(got '{self.output.format}')",
        )
        for method, formats in OUTPUTS.items()
    ]
    return Rule("spec", "output.format", tuple(checks), "output_of_the_method", given="has(self.output.format)")
