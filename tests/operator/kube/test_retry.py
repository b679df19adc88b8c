"""Only what the server surely did not do is sent again by the client itself."""

from __future__ import annotations

import pytest

from finetune_operator.kube.errors import ApiError, Conflict, ServerError, TooManyRequests, Unreachable
from finetune_operator.kube.retry import MOST_TRIES, wait_before_retry


def busy(retry_after: float | None = None) -> ApiError:
    return TooManyRequests(429, "TooManyRequests", "slow down", retry_after=retry_after)


def unavailable(retry_after: float | None = None, status: int = 503) -> ApiError:
    return ServerError(status, "ServiceUnavailable", "soon", retry_after=retry_after)


def wait(error: ApiError, *, creates: bool = False, tries: int = 1, jitter: float = 0.0) -> float | None:
    return wait_before_retry(error, creates=creates, tries=tries, jitter=lambda: jitter)


@pytest.mark.parametrize("creates", [True, False])
def test_too_many_requests_are_sent_again_when_the_server_says(creates: bool) -> None:
    assert wait(busy(7.0), creates=creates) == 7.0
    assert wait(busy(7.0), creates=creates, jitter=1.0) == 8.75


def test_without_a_word_from_the_server_the_wait_doubles() -> None:
    assert [wait(busy(), tries=n) for n in (1, 2, 3, 4)] == [0.5, 1.0, 2.0, 4.0]


def test_an_unavailable_server_is_asked_again_if_it_says_when_but_not_to_create() -> None:
    assert wait(unavailable(2.0)) == 2.0
    assert wait(unavailable()) is None
    assert wait(unavailable(2.0), creates=True) is None


@pytest.mark.parametrize(
    "error",
    [Unreachable("reset"), Conflict(409, "Conflict", "stale"), unavailable(2.0, 500), unavailable(2.0, 504)],
    ids=["reset", "conflict", "500", "504"],
)
def test_what_may_have_been_done_is_left_to_the_caller(error: ApiError) -> None:
    assert wait(error) is None


def test_a_server_cannot_make_us_wait_for_ever() -> None:
    assert wait(busy(86_400.0)) == 30.0
    assert wait(busy(1.0), tries=MOST_TRIES) is None
