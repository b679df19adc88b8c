"""A store that throttles: threads go back at random, and together they ask only so often."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from faults import FOREVER
from faulty_http import Action, refuse
from faulty_proxy import FaultyProxy
from finetune_trainer.errors import StorageError
from finetune_trainer.store import ObjectStore

THREADS = 48
RETRIES = 100  # botocore's token bucket: 500, of which a retry takes 5


def noting(seen: dict[str, list[float]], action: Action) -> Action:
    """The same action, with the time at which each path asked for it."""

    def act(handler: Any) -> None:
        seen.setdefault(handler.path, []).append(time.monotonic())
        action(handler)

    return act


def test_threads_that_are_throttled_come_back_at_random_times_and_share_a_budget(
    broken_store: ObjectStore, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "10")
    seen: dict[str, list[float]] = {}
    proxy.inject("GET", noting(seen, refuse(503, "SlowDown")), times=FOREVER)
    with ThreadPoolExecutor(THREADS) as pool:
        failed = [pool.submit(broken_store.get, f"key-{number}") for number in range(THREADS)]
        errors = [one.exception() for one in failed]
    assert all(isinstance(error, StorageError) and "throttles" in str(error) for error in errors)
    gaps = sorted(times[1] - times[0] for times in seen.values() if len(times) > 1)
    assert len(gaps) == THREADS
    assert gaps[-1] - gaps[0] > 0.3  # uniform between 0 and 1 second
    assert THREADS < proxy.count("GET") <= THREADS + RETRIES


def test_lists_and_deletes_outlive_an_error_in_a_200(broken_store: ObjectStore, proxy: FaultyProxy) -> None:
    broken_store.create("a", b"payload")
    proxy.inject("GET", refuse(200, "InternalError"), part="list-type=2", times=2)
    assert [info.key for info in broken_store.list()] == ["a"]
    proxy.inject("POST", refuse(200, "SlowDown"), times=2)
    broken_store.delete(["a"])
    assert list(broken_store.list()) == []
    assert proxy.count("POST") == 3
