from __future__ import annotations

import threading
from contextlib import closing
from itertools import count

import pytest

from finetune_trainer.data.prefetch import prefetched

TIMEOUT = 20


def test_results_come_in_order_with_their_tasks() -> None:
    assert list(prefetched(lambda n: n * n, range(10), ahead=3)) == [(n, n * n) for n in range(10)]


def test_work_is_done_before_it_is_asked_for() -> None:
    third = threading.Event()

    def work(n: int) -> int:
        if n == 2:
            third.set()
        return n

    with closing(prefetched(work, count(), ahead=2)) as results:
        assert next(results) == (0, 0)
        assert third.wait(TIMEOUT)  # two more after the one that was handed out


def test_no_more_is_done_ahead_than_asked() -> None:
    taken: list[int] = []

    def tasks() -> object:
        for n in count():
            taken.append(n)
            yield n

    with closing(prefetched(lambda n: n, tasks(), ahead=2)) as results:  # type: ignore[arg-type, var-annotated]
        for _ in range(5):
            next(results)
        assert len(taken) <= 5 + 2


def test_an_exception_comes_at_its_turn() -> None:
    def work(n: int) -> int:
        if n == 2:
            raise ValueError("two")
        return n

    results = prefetched(work, range(5), ahead=2)
    assert [next(results), next(results)] == [(0, 0), (1, 1)]
    with pytest.raises(ValueError, match="two"):
        next(results)


def test_closing_ends_the_thread() -> None:
    before = threading.active_count()
    results = prefetched(lambda n: n, count(), ahead=2)
    next(results)
    assert threading.active_count() == before + 1
    results.close()
    assert threading.active_count() == before
