"""Waits double up to the longest, and half of each is chance."""

from __future__ import annotations

from finetune_operator.core.backoff import Backoff


def test_waits_double_up_to_the_longest() -> None:
    backoff = Backoff(0.5, 300.0, chance=lambda: 1.0)
    assert [backoff.seconds(n) for n in (1, 2, 3, 10, 11, 100_000)] == [0.5, 1.0, 2.0, 256.0, 300.0, 300.0]


def test_chance_takes_away_up_to_half() -> None:
    assert Backoff(8.0, 300.0, chance=lambda: 0.0).seconds(1) == 4.0
    waits = {Backoff(8.0, 300.0).seconds(1) for _ in range(50)}
    assert len(waits) > 40
    assert all(4.0 <= wait <= 8.0 for wait in waits)
