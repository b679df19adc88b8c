"""`kubectl apply` and `finetune validate` agree: the same mistakes, in the same words, and the same jobs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from finetune_operator.api.cel import JOB_RULES, Rule
from finetune_trainer.errors import Problem, SpecError
from finetune_trainer.spec import parse_job
from finetune_trainer.spec.rules import RULES
from mistakes import JOB_TABLES, NO_FURTHER, Mistake, Object, mistakes

NOT_IN_CEL = {
    "each_label_once": "comparing a thousand names with each other is too costly for the API server",
    "weights_of_labels_that_there_are": "as is comparing the weights' names with the labels'",
    "held_out_sets_have_their_own_names": "the schema says it: spec.data.eval is a list with `name` as its key",
    "patterns_are_regular_expressions": "they are Python's, and CEL has another kind; `finetune validate` says it",
}
"""Checks of the trainer without a CEL rule. Of `output_beside_checkpoints`, the half about the run's own folder is not
in CEL either: its name is the job's uid, which nobody knows before the job exists."""

OURS = ("rules", "not_yet", "addresses", "amounts", "names")
OTHER_WORDS = {
    "memory without a unit": "is less than 64Mi",
    "memory that is too small": "is less than 64Mi",
    "negative memory": "is less than 64Mi",
    "negative cpu": "write more than 0",
}
"""The API server allows no message as costly as one with a number of bytes, and shows the value itself."""

ONLY_ON_A_CLUSTER = ("cpu that is a fraction",)
"""`cpu: 0.5` is a number, which Kubernetes' own type for amounts refuses."""


def problems(manifest: Object) -> tuple[Problem, ...]:
    try:
        parse_job(json.dumps(manifest))
    except SpecError as error:
        return error.problems
    return ()


def plain(path: str) -> str:
    """A path as the API server writes it: free names without brackets and quotes."""
    return re.sub(r'\["([^"]*)"\]', r".\1", path)


def place(line: str) -> str:
    unknown = re.fullmatch(r'unknown field "(.*)"', line)
    return unknown[1] if unknown else line.partition(": ")[0]


def says(line: str, problem: Problem) -> bool:
    """Whether kubectl's line is about the problem's field, or about the list or object around it."""
    return plain(problem.path).startswith(place(line))


def in_its_words(line: str, problem: Problem) -> bool:
    full = f"{problem.message} (got {problem.value!r})"
    return says(line, problem) and line.endswith((full, problem.message))


def lines(mistake: Mistake) -> list[str]:
    theirs = ("<nil>", 'metadata.name: Invalid value: "')
    return [line for line in mistake.lines if line != NO_FURTHER and not line.startswith(theirs)]


def named(mistake: Mistake) -> str:
    return f"{mistake.table}: {mistake.case}"


@pytest.mark.parametrize("mistake", mistakes(*JOB_TABLES), ids=named)
def test_both_name_the_same_fields(mistake: Mistake) -> None:
    found = problems(mistake.manifest)
    if mistake.case in ONLY_ON_A_CLUSTER:
        assert found == ()
        return
    assert [line for line in lines(mistake) if not any(says(line, problem) for problem in found)] == []
    assert [problem for problem in found if not any(says(line, problem) for line in lines(mistake))] == []


@pytest.mark.parametrize("mistake", mistakes(*OURS), ids=named)
def test_rules_say_the_same_words(mistake: Mistake) -> None:
    found = problems(mistake.manifest)
    other = OTHER_WORDS.get(mistake.case)
    for line in lines(mistake):
        assert other in line if other else any(in_its_words(line, problem) for problem in found)


def test_every_check_of_the_trainer_has_a_rule_or_a_reason() -> None:
    mirrored = {rule.mirrors for rule in JOB_RULES}
    assert set(RULES.names()) - mirrored == set(NOT_IN_CEL)
    assert mirrored - set(RULES.names()) == {"uri", "quantity", "names", ""}


def messages(rules: tuple[Rule, ...]) -> Iterator[tuple[str, str]]:
    """Place and longest constant part of each message."""
    for rule in rules:
        for check in rule.checks:
            yield rule.path, max(re.split(r"\{[^{}]*\}", check.message), key=len)


def test_every_message_of_a_rule_is_in_the_tables() -> None:
    shown = [line for mistake in mistakes(*JOB_TABLES, "changes") for line in mistake.lines]
    about = {re.sub(r"\[\d+\]", "[]", place(line)) for line in shown}
    assert {path for path, _ in messages(JOB_RULES)} - about == set()
    texts = {text for path, text in messages(JOB_RULES) if path != "spec.deepspeed.overrides"}
    assert {text for text in texts if not any(text in line for line in shown)} == set()
