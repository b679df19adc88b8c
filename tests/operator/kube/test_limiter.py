"""A token bucket lets a burst pass and then its rate, in turn."""

from __future__ import annotations

from finetune_operator.kube.limiter import TokenBucket


def test_a_burst_passes_at_once_and_the_rest_at_the_rate() -> None:
    bucket = TokenBucket(10.0, 3, clock=lambda: 0.0)
    assert [bucket.reserve() for _ in range(6)] == [0.0, 0.0, 0.0, 0.1, 0.2, 0.3]


def test_tokens_come_back_with_time_and_never_more_than_the_burst() -> None:
    now = [0.0]
    bucket = TokenBucket(10.0, 2, clock=lambda: now[0])
    assert [bucket.reserve() for _ in range(3)] == [0.0, 0.0, 0.1]
    now[0] = 0.2  # two tokens came, one was owed
    assert [bucket.reserve() for _ in range(2)] == [0.0, 0.1]
    now[0] = 1000.0
    assert [bucket.reserve() for _ in range(3)] == [0.0, 0.0, 0.1]
