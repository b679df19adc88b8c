"""The test launcher itself: results in rank order, and nobody hangs when a rank does."""

from __future__ import annotations

import pytest

from ranks import RankFailure, run_ranks

MODULE = "tests/trainer/model/ranks_launcher.py"
BARE = "tests/trainer/model/ranks_bare.py"


def test_results_come_back_in_rank_order() -> None:
    results = run_ranks(2, f"{MODULE}:all_reduce", {"value": 3})
    assert results == [{"rank": rank, "sum": 7.0, "accelerator": "cpu"} for rank in range(2)]


def test_a_failing_rank_ends_all_and_shows_its_error() -> None:
    with pytest.raises(RankFailure, match=r"(?s)rank 1 exited with 1.*ValueError: the cause"):
        run_ranks(2, f"{MODULE}:fail_on_rank_one", {"message": "the cause"})


def test_a_hanging_rank_is_named_with_its_stack() -> None:
    with pytest.raises(RankFailure, match=r"(?s)ranks \[0\] did not finish within 10 s.*in hang_on_rank_zero"):
        run_ranks(2, f"{BARE}:hang_on_rank_zero", {}, timeout=10)


def test_ranks_begin_with_the_libraries_that_all_of_them_import_unless_they_are_fresh() -> None:
    assert run_ranks(1, f"{BARE}:imported", {}) == [{"libraries": ["deepspeed", "peft", "torch", "transformers"]}]
    assert run_ranks(1, f"{BARE}:imported", {}, fresh=True) == [{"libraries": []}]
