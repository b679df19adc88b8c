"""Workers that wait at the queue: each key wakes one who may take it, at once or when it is due."""

from __future__ import annotations

import asyncio
import random

import pytest

from finetune_operator.core.workqueue import Priority, WorkQueue


def test_each_waiting_worker_gets_a_key_as_soon_as_there_is_one() -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue()
        workers = [asyncio.create_task(queue.get()) for _ in range(3)]
        await asyncio.sleep(0)
        for key in "abc":
            queue.add(key)
        assert sorted(await asyncio.gather(*workers)) == ["a", "b", "c"]

    asyncio.run(asyncio.wait_for(main(), 5))


def test_a_waiting_worker_wakes_when_a_key_is_due_and_for_an_earlier_one_first() -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue()
        worker = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        queue.add("late", after=30)
        queue.add("soon", after=0.01)
        assert await worker == "soon"

    asyncio.run(asyncio.wait_for(main(), 5))


def test_a_key_whose_worker_is_cancelled_before_it_took_it_goes_to_another() -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue()
        first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        queue.add("a")  # wakes the first
        first.cancel()
        assert await second == "a"

    asyncio.run(asyncio.wait_for(main(), 5))


def test_a_key_whose_worker_took_an_urgent_one_in_its_place_wakes_another() -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue()
        first, second, urgent = (asyncio.create_task(queue.get(urgent)) for urgent in (False, False, True))
        await asyncio.sleep(0)
        queue.add("a", Priority.LIST)  # wakes the first
        queue.add("b", Priority.SPEC)  # wakes the urgent one, before which the first comes
        assert await first == "b"
        assert await second == "a"
        urgent.cancel()

    asyncio.run(asyncio.wait_for(main(), 5))


@pytest.mark.parametrize("seed", range(20))
def test_whoever_takes_urgent_keys_only_every_key_is_taken(seed: int) -> None:
    chance = random.Random(seed)
    taken: list[int] = []

    async def work(queue: WorkQueue[int], urgent: bool) -> None:
        while True:
            key = await queue.get(urgent)
            taken.append(key)
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            queue.done(key)

    async def main() -> None:
        queue: WorkQueue[int] = WorkQueue()
        workers = [asyncio.create_task(work(queue, urgent)) for urgent in (False, True, True, False)]
        for key in range(40):
            queue.add(key, chance.choice(list(Priority)))
            if chance.random() < 0.3:
                queue.add(chance.randrange(key + 1), Priority.SPEC)
            for _ in range(chance.choice([0, 0, 1, 3, 9])):
                await asyncio.sleep(0)
        while set(taken) != set(range(40)):
            await asyncio.sleep(0)
        for worker in workers:
            worker.cancel()

    asyncio.run(asyncio.wait_for(main(), 5))
