"""When ranks are started again, and which failure counts as the cause."""

from __future__ import annotations

from dataclasses import replace

import pytest

from finetune_trainer.errors import PeerFailed
from finetune_trainer.launch.decide import Fail, Retry, decide
from finetune_trainer.launch.outcome import Failure, failure_of, root_cause

CRASH = Failure(1, "Killed", "rank 1 was killed by SIGKILL", retryable=True, rank=1, time=2.0)
USER_ERROR = Failure(11, "BadData", "no record", retryable=False, rank=1, time=2.0)
PEER_LOST = Failure(1, "PeerLost", "connection closed", retryable=True, rank=0, collateral=True, time=1.0)


@pytest.mark.parametrize(
    ("failure", "restarts", "allowed", "stopping", "expected"),
    [
        (CRASH, 0, 1, False, Retry(1)),
        (CRASH, 4, 5, False, Retry(5)),
        (PEER_LOST, 0, 1, False, Retry(1)),
        (CRASH, 5, 5, False, Fail),
        (CRASH, 0, 0, False, Fail),
        (USER_ERROR, 0, 5, False, Fail),
        (CRASH, 0, 5, True, Fail),
    ],
)
def test_only_failures_that_may_pass_are_retried_and_only_within_the_budget(
    failure: Failure, restarts: int, allowed: int, stopping: bool, expected: Retry | type[Fail]
) -> None:
    decision = decide(failure, restarts, allowed, stopping)
    assert decision == expected if isinstance(expected, Retry) else isinstance(decision, expected)


def test_an_exhausted_budget_is_named_with_its_field() -> None:
    decision = decide(CRASH, restarts=5, max_restarts=5)
    assert isinstance(decision, Fail)
    assert "spec.failurePolicy.maxRestarts" in decision.why


def test_the_cause_is_what_no_other_rank_brought_about_even_if_it_was_recorded_later() -> None:
    assert root_cause([PEER_LOST, USER_ERROR]) == USER_ERROR


def test_an_error_that_was_shared_is_never_the_cause_though_it_may_be_recorded_first() -> None:
    shared = replace(failure_of(PeerFailed("rank 1 failed: no record"), rank=0), time=1.0)
    assert root_cause([shared, USER_ERROR]) == USER_ERROR
    assert isinstance(decide(root_cause([shared, USER_ERROR]), restarts=0, max_restarts=5), Fail)


def test_of_two_causes_the_first_counts() -> None:
    later = Failure(14, "Storage", "bucket gone", retryable=True, rank=0, time=3.0)
    assert root_cause([later, CRASH]) == CRASH


def test_of_ranks_that_stopped_the_lowest_speaks_and_a_crash_before_the_last_stop_is_no_stop() -> None:
    stops = [Failure(15, "Stopped", f"rank {rank}", False, rank=rank, time=9.0 - rank) for rank in (1, 0, 2)]
    assert root_cause(stops).message == "rank 0"
    assert root_cause([*stops, CRASH]) == CRASH


def test_a_broken_connection_is_the_cause_when_nothing_else_is_known() -> None:
    assert root_cause([PEER_LOST]) == PEER_LOST
