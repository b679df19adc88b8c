"""The rules about metrics: each has the options that it needs, and records that it can be computed of."""

from __future__ import annotations

import re
from collections.abc import Iterator

from finetune_trainer.errors import Problem
from finetune_trainer.spec.job import FineTuneJob
from finetune_trainer.spec.messages import MISSING
from finetune_trainer.spec.metric import OWNERS, Metric, MetricType
from finetune_trainer.spec.notyet import VALUES
from finetune_trainer.spec.objective import ObjectiveType
from finetune_trainer.spec.rules import RULES

__all__ = ["RULES"]


def _metrics(job: FineTuneJob) -> Iterator[tuple[str, Metric]]:
    for number, held_out in enumerate(job.spec.data.eval):
        for place, metric in enumerate(held_out.metrics):
            yield f"spec.data.eval[{number}].metrics[{place}]", metric


@RULES.rule("spec.data.eval[].metrics[]")
def metrics_have_their_options(job: FineTuneJob) -> Iterator[Problem]:
    for path, metric in _metrics(job):
        for name, owner in OWNERS.items():
            if getattr(metric, name) and metric.type is not owner:
                message = f"has no effect with type: {metric.type}: remove it, or write type: {owner}"
                yield Problem(f"{path}.{name}", "a text" if name == "pattern" else "a list", message)
        if metric.type is MetricType.CHOICE and len(metric.choices) < 2:
            message = "needs at least two answers to tell apart: write for instance choices: ['yes', 'no']"
            yield Problem(f"{path}.choices", "a list" if metric.choices else MISSING, message)
        if metric.type is MetricType.REGEX and metric.pattern is None:
            message = "is what type: Regex compares: write for instance pattern: 'Answer: (.*)'"
            yield Problem(f"{path}.pattern", MISSING, message)


@RULES.rule("spec.data.eval[].metrics[]")
def patterns_are_regular_expressions(job: FineTuneJob) -> Iterator[Problem]:
    for path, metric in _metrics(job):
        try:
            re.compile(metric.pattern or "")
        except re.error as error:
            message = f"is no regular expression of Python ({error}): correct it"
            yield Problem(f"{path}.pattern", metric.pattern, message)


@RULES.rule("spec.evaluation.forgetting.sets", "spec.data.eval[*].name")
def forgetting_is_about_held_out_sets(job: FineTuneJob) -> Iterator[Problem]:
    names = [held_out.name for held_out in job.spec.data.eval]
    sets = job.spec.evaluation.forgetting.sets
    for number, name in enumerate(sets):
        if name not in names:
            message = "is the name of no set in spec.data.eval: write the name of one, or remove it"
            yield Problem(f"spec.evaluation.forgetting.sets[{number}]", name, message)
    if names and set(names) <= set(sets):
        message = "leaves no set of spec.data.eval that training is about: remove one, or add a set there"
        yield Problem("spec.evaluation.forgetting.sets", "a list", message)


@RULES.rule("spec.objective.type", "spec.data.eval[].metrics")
def metrics_have_answers(job: FineTuneJob) -> Iterator[Problem]:
    objective = job.spec.objective.type
    if objective is ObjectiveType.SFT or objective in VALUES:
        return
    for number, held_out in enumerate(job.spec.data.eval):
        path = f"spec.data.eval[{number}].metrics"
        if held_out.metrics:
            message = "compares answers, which records have with objective SFT alone: remove it"
            yield Problem(path, "a list", message)
