"""The rules about the options of classifiers, each with its message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from finetune_trainer.errors import Problem
from finetune_trainer.spec.heads import Classification, ProblemType
from finetune_trainer.spec.job import FineTuneJob
from finetune_trainer.spec.messages import shown_path
from finetune_trainer.spec.rule import RuleBook

HEAD_RULES = RuleBook()
PATH = "spec.objective.classification"
SHOWN = 8


def _options(job: FineTuneJob) -> Classification:
    return job.spec.objective.classification or Classification()


@HEAD_RULES.rule(f"{PATH}.problem", f"{PATH}.labels", f"{PATH}.classWeights", f"{PATH}.balanceClasses")
def regression_has_no_labels(job: FineTuneJob) -> Iterator[Problem]:
    options = _options(job)
    if options.problem is not ProblemType.REGRESSION:
        return
    message = f"has no effect with problem: {options.problem}: remove it, or write problem: {ProblemType.SINGLE_LABEL}"
    given = {"labels": options.labels, "classWeights": options.class_weights, "balanceClasses": options.balance_classes}
    shown = {"labels": "a list", "classWeights": "a mapping", "balanceClasses": True}
    for name, value in given.items():
        if value:
            yield Problem(f"{PATH}.{name}", shown[name], message)


@HEAD_RULES.rule(f"{PATH}.problem", f"{PATH}.labels")
def labels_to_choose_from(job: FineTuneJob) -> Iterator[Problem]:
    options = _options(job)
    if options.problem is ProblemType.SINGLE_LABEL and len(options.labels) == 1:
        message = "leaves nothing to choose from: name two labels or more, or leave it out to take those of the data"
        yield Problem(f"{PATH}.labels", "a list", message)


@HEAD_RULES.rule(f"{PATH}.labels")
def each_label_once(job: FineTuneJob) -> Iterator[Problem]:
    for label, count in Counter(_options(job).labels).items():
        if count > 1:
            yield Problem(f"{PATH}.labels", label, f"is the name of {count} labels: name each label once")


@HEAD_RULES.rule(f"{PATH}.problem", f"{PATH}.classWeights", f"{PATH}.balanceClasses")
def one_way_to_weigh_labels(job: FineTuneJob) -> Iterator[Problem]:
    options = _options(job)
    if options.balance_classes and options.problem is ProblemType.MULTI_LABEL:
        message = "weighs single labels against each other: remove it, or write classWeights"
        yield Problem(f"{PATH}.balanceClasses", True, message)
    if options.balance_classes and options.class_weights and options.problem is ProblemType.SINGLE_LABEL:
        message = "weighs the labels, which classWeights do as well: keep one of the two"
        yield Problem(f"{PATH}.balanceClasses", True, message)


@HEAD_RULES.rule(f"{PATH}.labels", f"{PATH}.classWeights")
def weights_of_labels_that_there_are(job: FineTuneJob) -> Iterator[Problem]:
    options = _options(job)
    for label, weight in options.class_weights.items():
        if options.labels and label not in options.labels:
            message = f"is the weight of a label that {PATH}.labels does not name: write one of {_some(options.labels)}"
            yield Problem(shown_path((*PATH.split("."), "classWeights", label)), weight, message)


def _some(labels: tuple[str, ...]) -> str:
    more = f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else ""
    return ", ".join(labels[:SHOWN]) + more
