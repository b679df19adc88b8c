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
from finetune_trainer.store import ObjectStore, open_store
from finetune_trainer.store.s3_client import CONNECTIONS
from finetune_trainer.store.s3_retries import DEAREST_RETRY
from s3_faults.requests import Operation
from s3_faults.server import FaultyS3

THREADS = 120
ATTEMPTS = 4
RETRIES = CONNECTIONS * (ATTEMPTS - 1) * DEAREST_RETRY // 5  # of a token bucket of which a throttled retry takes 5


def noting(seen: dict[str, list[float]], action: Action) -> Action:
    """The same action, with the time at which each path asked for it."""

    def act(handler: Any) -> None:
        seen.setdefault(handler.path, []).append(time.monotonic())
        action(handler)

    return act


@pytest.mark.alone  # a thread that begins late finds the budget spent by the second retries of others
def test_threads_that_are_throttled_come_back_at_random_times_and_share_a_budget(
    broken_store: ObjectStore, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", str(ATTEMPTS))
    seen: dict[str, list[float]] = {}
    proxy.inject("GET", noting(seen, refuse(503, "SlowDown")), times=FOREVER)
    with ThreadPoolExecutor(THREADS) as pool:
        failed = [pool.submit(broken_store.get, f"key-{number}") for number in range(THREADS)]
        errors = [one.exception() for one in failed]
    assert all(isinstance(error, StorageError) and "throttles" in str(error) for error in errors)
    gaps = sorted(times[1] - times[0] for times in seen.values() if len(times) > 1)
    assert len(gaps) == THREADS
    assert gaps[-1] - gaps[0] > 0.3  # uniform between 0 and 1 second
    assert THREADS < proxy.count("GET") <= THREADS + RETRIES < THREADS * ATTEMPTS


@pytest.mark.parametrize(("code", "threads", "refusals"), [("SlowDown", 67, 3), ("ServiceUnavailable", 34, 6)])
def test_a_burst_of_200_refusals_is_outlived(
    faulty_s3: FaultyS3, monkeypatch: pytest.MonkeyPatch, code: str, threads: int, refusals: int
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "10")
    store = open_store(f"s3://{faulty_s3.make_bucket()}/runs")
    keys = [f"key-{number}" for number in range(threads)]
    for key in keys:
        store.create(key, key.encode())
        faulty_s3.inject(refuse(503, code), Operation.GET, key=f"*/{key}", times=refusals)
    with ThreadPoolExecutor(threads) as pool:
        assert list(pool.map(store.get, keys)) == [key.encode() for key in keys]
    assert faulty_s3.count(Operation.GET) == threads * (refusals + 1) > 200 + threads


def test_lists_and_deletes_outlive_an_error_in_a_200(broken_store: ObjectStore, proxy: FaultyProxy) -> None:
    broken_store.create("a", b"payload")
    proxy.inject("GET", refuse(200, "InternalError"), part="list-type=2", times=2)
    assert [info.key for info in broken_store.list()] == ["a"]
    proxy.inject("POST", refuse(200, "SlowDown"), times=2)
    broken_store.delete(["a"])
    assert list(broken_store.list()) == []
    assert proxy.count("POST") == 3
