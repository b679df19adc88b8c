"""Checks a manifest as a whole, so that one attempt shows every mistake.

Cross-field rules need a job, and a manifest with a broken field makes none. So broken parts are replaced by an
example's, the rules run on the result, and findings that read a replaced part are left out.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from finetune_trainer.errors import Problem, SpecError
from finetune_trainer.spec.defaults import prepare
from finetune_trainer.spec.evaluation_rules import RULES
from finetune_trainer.spec.example import NOTHING, example_at
from finetune_trainer.spec.fields import entries, member_names
from finetune_trainer.spec.job import FineTuneJob
from finetune_trainer.spec.messages import MISSING, Location, generic_path, lookup, meant, problem_from, shown_path

MAX_REPAIRS = 3
Unknown = Literal["forbid", "ignore"]


def check_document(document: Any, unknown: Unknown = "forbid") -> FineTuneJob:
    """Makes a job of a manifest read from YAML or JSON; raises `SpecError` with every problem found.

    `unknown` fields may be ignored where somebody else has checked the manifest who knows more of them.
    """
    if not isinstance(document, Mapping):
        raise SpecError([Problem("manifest", document, "is no mapping: write apiVersion, kind, metadata and spec")])
    manifest = prepare(document)
    try:
        job = _validate(manifest, unknown)
    except ValidationError as error:
        raise SpecError(_all_problems(manifest, error, unknown)) from None
    if problems := list(RULES.problems(job)):
        raise SpecError(problems)
    return job


def _validate(manifest: Mapping[str, Any], unknown: Unknown) -> FineTuneJob:
    # JSON is the form in which strict pydantic still takes text for an enum and a list for a tuple.
    return FineTuneJob.model_validate_json(json.dumps(manifest), by_alias=True, by_name=False, extra=unknown)


def _all_problems(manifest: Mapping[str, Any], error: ValidationError, unknown: Unknown) -> list[Problem]:
    problems = _field_problems(manifest, error.errors())
    repaired = copy.deepcopy(dict(manifest))
    broken: list[str] = []
    for _ in range(MAX_REPAIRS):
        for details in error.errors():
            broken += _repair(repaired, details)
        try:
            return problems + list(RULES.problems(_validate(repaired, unknown), broken))
        except ValidationError as next_error:
            error = next_error
    return problems


def _field_problems(manifest: Mapping[str, Any], errors: Sequence[ErrorDetails]) -> list[Problem]:
    """One problem for each place, without the errors that only follow from another one."""
    misspelt = {path for error in errors if error["type"] == "extra_forbidden" for path in _meant(error["loc"])}
    lists_with_errors = {error["loc"][:length] for error in errors for length in range(len(error["loc"]))}
    problems: dict[str, Problem] = {}
    for error in errors:
        problem = problem_from(error, manifest)
        # An element that is refused does not count, so that a list with one bad element seems empty.
        shortened = error["type"] == "too_short" and error["loc"] in lists_with_errors
        if not shortened and not (error["type"] == "missing" and problem.path in misspelt):
            problems.setdefault(problem.path, problem)
    return list(problems.values())


def _repair(manifest: dict[str, Any], error: ErrorDetails) -> list[str]:
    """Replaces or removes what `error` is about; returns the paths whose true values are unknown now."""
    location = tuple(part for part in error["loc"] if part != "[key]")
    if not location:
        return []
    broken = [shown_path(location)]
    if error["type"] == "extra_forbidden":
        broken += _meant(location)
    parent = lookup(manifest, location[:-1])
    if not isinstance(parent, dict) and lookup(manifest, location) is MISSING:
        return broken  # went with a part around it that was replaced before
    replacement = example_at(shown_path(location)) if generic_path(location) in entries() else NOTHING
    if replacement is NOTHING:
        parent.pop(location[-1], None)
    else:
        parent[location[-1]] = copy.deepcopy(replacement)
    return broken


def _meant(location: Location) -> list[str]:
    """The field that an unknown one stands for, so that no rule misses it."""
    path = generic_path((*location[:-1], "")).removesuffix(".")
    near = meant(str(location[-1]), member_names(path))
    return [shown_path((*location[:-1], near))] if near else []
