"""Rules that do not look at everything each time: nothing is let through by that."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from finetune_operator.api.cel import JOB_RULES
from finetune_operator.api.cel.address import PLAIN
from finetune_operator.api.cel.changes import CHANGEABLE, CHANGEABLE_WHILE_SUSPENDED
from finetune_operator.api.cel.rule import validation
from finetune_trainer.spec import JobSpec
from finetune_trainer.spec.uri import MAX_LENGTH, SourceUri, StoreUri

ONCE = [rule for rule in JOB_RULES if rule.once]
MAY_CHANGE = (*CHANGEABLE, *CHANGEABLE_WHILE_SUSPENDED)


def test_a_rule_that_rests_at_updates_looks_at_nothing_that_may_change() -> None:
    assert len(ONCE) > 50
    for rule in ONCE:
        read = {rule.path.split(".")[1], *re.findall(r"self\.(\w+)", validation(rule)["rule"])}
        assert read.isdisjoint(MAY_CHANGE), rule.path


def test_everything_else_of_a_spec_is_kept_from_changing() -> None:
    fixed = {rule.path.split(".")[1] for rule in JOB_RULES if "oldSelf" in rule.checks[0].wrong}
    assert {str(field.alias) for field in JobSpec.model_fields.values()} - set(MAY_CHANGE) - fixed == set()


@pytest.mark.parametrize("glob", [True, False])
def test_an_address_that_is_taken_at_a_glance_has_no_mistake(glob: bool) -> None:
    trainers: TypeAdapter[str] = TypeAdapter(SourceUri if glob else StoreUri)

    @settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(st.from_regex(PLAIN[glob].removesuffix("$") + r"\Z", alphabet=st.characters(codec="ascii")))
    def each(address: str) -> None:
        if len(address) <= MAX_LENGTH:
            assert trainers.validate_python(address) == address

    each()
