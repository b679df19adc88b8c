"""The test launcher itself: results in rank order, and nobody hangs when a rank does."""

from __future__ import annotations

import pytest

from ranks import RankFailure, run_ranks

MODULE = "tests/trainer/model/ranks_launcher.py"


def test_results_come_back_in_rank_order() -> None:
    results = run_ranks(2, f"{MODULE}:all_reduce", {"value": 3})
    assert results == [{"rank": rank, "sum": 7.0, "accelerator": "cpu"} for rank in range(2)]


def test_a_failing_rank_ends_all_and_shows_its_error() -> None:
    with pytest.raises(RankFailure, match=r"(?s)rank 1 exited with 1.*ValueError: the cause"):
        run_ranks(2, f"{MODULE}:fail_on_rank_one", {"message": "the cause"})


def test_a_hanging_rank_is_named_with_its_stack() -> None:
    with pytest.raises(RankFailure, match=r"(?s)ranks \[0\] did not finish within 10 s.*in hang_on_rank_zero"):
        run_ranks(2, "tests/trainer/model/ranks_hang.py:hang_on_rank_zero", {}, timeout=10)
