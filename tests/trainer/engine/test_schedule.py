"""Learning-rate factors over the share of the run."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.engine.schedule import learning_rate_factor
from finetune_trainer.spec import ScheduleType

SHARES = st.floats(0, 1, allow_nan=False)


def factors(kind: ScheduleType, warmup: float, steps: int) -> list[float]:
    return [learning_rate_factor(kind, warmup, step / steps, (step + 1) / steps) for step in range(steps)]


def test_warm_up_rises_linearly_and_its_first_step_is_not_zero() -> None:
    assert factors(ScheduleType.CONSTANT, 0.4, 10) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1])


def test_linear_decay_ends_above_zero_because_the_last_step_counts() -> None:
    assert factors(ScheduleType.LINEAR, 0.0, 4) == pytest.approx([1, 0.75, 0.5, 0.25])


def test_cosine_is_half_way_down_in_the_middle() -> None:
    assert factors(ScheduleType.COSINE, 0.0, 4) == pytest.approx(
        [1, 0.5 + math.cos(math.pi / 4) / 2, 0.5, 0.5 + math.cos(3 * math.pi / 4) / 2]
    )


def test_wsd_is_constant_and_decays_over_the_last_tenth() -> None:
    found = factors(ScheduleType.WSD, 0.0, 20)
    assert found[:19] == pytest.approx([1.0] * 19)
    assert found[19] == pytest.approx(0.5)


@given(st.sampled_from(list(ScheduleType)), st.floats(0, 0.99), SHARES, SHARES)
def test_every_factor_lies_between_zero_and_one(kind: ScheduleType, warmup: float, one: float, other: float) -> None:
    assert 0.0 <= learning_rate_factor(kind, warmup, min(one, other), max(one, other)) <= 1.0
