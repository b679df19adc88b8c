"""Workers call reconcile for each key until it succeeds, and again when it asks for that; nothing ends them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from finetune_operator.core.backoff import Backoff
from finetune_operator.core.controller import Controller
from finetune_operator.core.lease import NotLeading
from finetune_operator.core.metrics import REGISTRY
from finetune_operator.core.workqueue import Priority, WorkQueue
from finetune_operator.kube import Conflict, Unreachable

AT_ONCE = Backoff(0.001, 0.1, chance=lambda: 1.0)


def run(
    keys: str, reconcile: Callable[[str], Awaitable[float | None]], until: Callable[[], bool], workers: int = 4
) -> WorkQueue[str]:
    """Run a controller until a condition holds that reconcile brings about."""

    async def main() -> WorkQueue[str]:
        queue: WorkQueue[str] = WorkQueue(AT_ONCE)
        for key in keys:
            queue.add(key)
        held = asyncio.Event()

        async def watched(key: str) -> float | None:
            try:
                return await reconcile(key)
            finally:
                if until():
                    held.set()

        running = asyncio.create_task(Controller(queue, workers, watched, name="test").run())
        await asyncio.wait({running, asyncio.create_task(held.wait())}, return_when=asyncio.FIRST_COMPLETED)
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return queue

    return asyncio.run(asyncio.wait_for(main(), 10))


def count(result: str) -> float:
    labels = {"controller": "test", "result": result}
    return REGISTRY.get_sample_value("finetune_reconcile_seconds_count", labels) or 0.0


@pytest.mark.parametrize(
    ("error", "result"),
    [(Unreachable("gone"), "error"), (Conflict(409, "Conflict", "stale"), "conflict"), (KeyError("bug"), "error")],
)
def test_a_failed_key_is_tried_until_it_succeeds_and_the_others_go_on(error: Exception, result: str) -> None:
    before = count(result), count("success")
    calls: list[str] = []

    async def reconcile(key: str) -> None:
        calls.append(key)
        if key == "a" and calls.count("a") < 4:
            raise error

    queue = run("abc", reconcile, lambda: len(calls) == 6)
    assert sorted(calls) == ["a", "a", "a", "a", "b", "c"]
    assert (count(result) - before[0], count("success") - before[1]) == (3, 3)
    assert queue.retry("a") == 0.001  # its failures are forgotten


def test_an_unexpected_error_is_logged_with_its_traceback_and_an_api_error_in_a_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors = {"a": Unreachable("no route"), "b": KeyError("bug"), "c": NotLeading("no leader")}

    async def reconcile(key: str) -> None:
        if (error := errors.pop(key, None)) is not None:
            raise error

    with caplog.at_level(logging.INFO):
        run("abc", reconcile, lambda: not errors)
    logged = [record for record in caplog.records if record.name.endswith("controller")]
    lines = [record for record in logged if record.levelname != "ERROR"]
    told = [(record.levelname, record.getMessage().partition("after ")[2]) for record in lines]
    assert told == [("WARNING", "no route"), ("INFO", "no leader")]  # a handover is nothing to warn of
    assert [record.exc_info for record in lines] == [None, None]
    (error,) = [record for record in logged if record.levelname == "ERROR"]
    assert error.exc_info is not None


def test_a_reconcile_that_asks_for_it_is_called_again() -> None:
    calls: list[str] = []

    async def reconcile(key: str) -> float | None:
        calls.append(key)
        return 0.0 if len(calls) < 3 else None

    queue = run("a", reconcile, lambda: len(calls) == 3)
    assert queue.take() is None


def test_a_key_is_never_worked_on_twice_at_a_time_while_others_are() -> None:
    busy: list[str] = []
    most: list[int] = []
    turns: dict[str, int] = {"a": 0, "b": 0}

    async def reconcile(key: str) -> float | None:
        assert key not in busy
        busy.append(key)
        most.append(len(busy))
        await asyncio.sleep(0.002)
        busy.remove(key)
        turns[key] += 1
        return 0.0

    run("ab", reconcile, lambda: min(turns.values()) >= 5)
    assert max(most) == 2


def test_a_key_of_the_highest_priority_never_waits_for_long_work_on_others() -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue(AT_ONCE)
        over, seen = asyncio.Event(), asyncio.Event()

        async def reconcile(key: str) -> None:
            await (over.wait() if key != "new" else asyncio.sleep(0))
            if key == "new":
                seen.set()

        running = asyncio.create_task(Controller(queue, 4, reconcile, name="test").run())
        for key in "abcdefgh":
            queue.add(key, Priority.LIST)
        await asyncio.sleep(0)
        queue.add("new", Priority.SPEC)
        await seen.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(asyncio.wait_for(main(), 5))


def test_cancelling_it_cancels_what_is_running() -> None:
    ended: list[str] = []

    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add("a")
        started = asyncio.Event()

        async def reconcile(key: str) -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(key)

        running = asyncio.create_task(Controller(queue, 2, reconcile).run())
        await started.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(asyncio.wait_for(main(), 5))
    assert ended == ["a"]
