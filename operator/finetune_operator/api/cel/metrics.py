"""The rules of `finetune_trainer.spec.evaluation_rules`, in CEL: what a metric needs, and of which records."""

from __future__ import annotations

from collections.abc import Iterator

from finetune_operator.api.cel.rule import Reason, Rule, number, rule, text, texts
from finetune_trainer.spec.metric import OWNERS, MetricType
from finetune_trainer.spec.notyet import VALUES
from finetune_trainer.spec.objective import ObjectiveType

METRIC = "spec.data.eval[].metrics[]"
MOST_SETS = 32
REQUIRED: Reason = "FieldValueRequired"


def metric_rules() -> Iterator[Rule]:
    """The rules about `spec.data.eval[].metrics`, in the order of the trainer's."""
    name = "metrics_have_their_options"
    for field, owner in OWNERS.items():
        given = f"has(self.{field})" if field == "pattern" else f"has(self.{field}) && self.{field}.size() > 0"
        got = "a text" if field == "pattern" else "a list"
        message = f"has no effect with type: {{self.type}}: remove it, or write type: {owner} (got '{got}')"
        yield rule(METRIC, field, f"self.type != {text(owner)} && {given}", message, mirrors=name)
    choice, required = f"self.type == {text(MetricType.CHOICE)}", REQUIRED
    message = "needs at least two answers to tell apart: write for instance choices: ['yes', 'no'] (got {})"
    none = "(!has(self.choices) || self.choices.size() == 0)"
    yield rule(METRIC, "choices", f"{choice} && {none}", message.format("nothing"), mirrors=name, reason=required)
    one = "has(self.choices) && self.choices.size() == 1"
    yield rule(METRIC, "choices", f"{choice} && {one}", message.format("'a list'"), mirrors=name)
    message = "is what type: Regex compares: write for instance pattern: 'Answer: (.*)' (got nothing)"
    wrong = f"self.type == {text(MetricType.REGEX)} && !has(self.pattern)"
    yield rule(METRIC, "pattern", wrong, message, mirrors=name, reason=required)
    yield from _forgetting()
    yield _answers()


def _forgetting() -> Iterator[Rule]:
    name, sets = "forgetting_is_about_held_out_sets", "self.evaluation.forgetting.sets"
    given = f"has({sets})"
    known = "(has(self.data.eval) && self.data.eval.exists(set, set.name == name))"
    message = (
        "is the name of no set in spec.data.eval: write the name of one, or remove it "
        f"(got '{{{sets}.filter(name, !{known})[0]}}')"
    )
    field = "evaluation.forgetting.sets"
    yield rule("spec", field, f"{given} && {sets}.exists(name, !{known})", message, mirrors=name)
    about = f"self.data.eval.exists(set, !(set.name in {sets}))"
    message = "leaves no set of spec.data.eval that training is about: remove one, or add a set there (got 'a list')"
    wrong = f"{given} && has(self.data.eval) && self.data.eval.size() > 0 && !{about}"
    yield rule("spec", field, wrong, message, mirrors=name)


def _answers() -> Rule:
    """Stands at the spec, because an element alone does not know the objective; a rule's path has no index."""
    numbers = list(range(MOST_SETS))
    others = [one for one in ObjectiveType if one is ObjectiveType.SFT or one in VALUES]
    given = "has(self.data.eval[i].metrics) && self.data.eval[i].metrics.size() > 0"
    places = f"{numbers}.filter(i, i < self.data.eval.size() && {given})"
    return rule(
        "spec",
        "data.eval",
        f"has(self.data.eval) && !(self.objective.type in {texts(others)}) && {places}.size() > 0",
        f"[{{{number(f'{places}[0]', MOST_SETS)}}}].metrics compares answers, which records have with objective SFT "
        "alone: remove it (got 'a list')",
        mirrors="metrics_have_answers",
    )
