"""The queue hands out each key once, to one worker at a time, in the order of priorities and never too early."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.core.backoff import Backoff
from finetune_operator.core.workqueue import Priority, WorkQueue


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> WorkQueue[str]:
    return WorkQueue(retries=Backoff(0.5, 300.0, chance=lambda: 1.0), clock=clock)


def drain(queue: WorkQueue[str]) -> list[str]:
    taken = []
    while (key := queue.take()) is not None:
        taken.append(key)
        queue.done(key)
    return taken


def test_a_key_that_waits_is_there_once(queue: WorkQueue[str]) -> None:
    for key in "abab":
        queue.add(key)
    assert len(queue) == 2
    assert drain(queue) == ["a", "b"]


def test_a_key_is_worked_on_by_one_worker_and_again_if_it_was_added_meanwhile(queue: WorkQueue[str]) -> None:
    queue.add("a")
    assert queue.take() == "a"
    queue.add("a")
    queue.add("a")
    assert queue.take() is None
    queue.done("a")
    assert drain(queue) == ["a"]


def test_a_key_that_nobody_added_meanwhile_does_not_come_again(queue: WorkQueue[str]) -> None:
    queue.add("a")
    assert drain(queue) == ["a"]
    assert drain(queue) == []


def test_higher_priorities_go_first(queue: WorkQueue[str]) -> None:
    queue.add("listed", Priority.LIST)
    queue.add("child", Priority.CHILD)
    queue.add("spec", Priority.SPEC)
    assert drain(queue) == ["spec", "child", "listed"]


def test_a_key_that_waits_gets_the_highest_of_its_priorities(queue: WorkQueue[str]) -> None:
    queue.add("listed", Priority.LIST)
    queue.add("edited", Priority.LIST)
    queue.add("edited", Priority.SPEC)
    queue.add("edited", Priority.CHILD)
    assert drain(queue) == ["edited", "listed"]


def test_a_key_added_while_worked_on_comes_back_with_the_highest_of_its_priorities(queue: WorkQueue[str]) -> None:
    queue.add("a")
    queue.take()
    queue.add("a", Priority.SPEC)
    queue.add("a", Priority.LIST)
    queue.add("b", Priority.CHILD)
    queue.done("a")
    assert drain(queue) == ["a", "b"]


def test_the_last_priority_has_its_turn_in_a_flood_of_others(queue: WorkQueue[str]) -> None:
    queue.add("listed", Priority.LIST)
    taken = []
    for turn in range(20):
        queue.add(f"spec-{turn}", Priority.SPEC)
        queue.add(f"more-{turn}", Priority.SPEC)
        taken.append(queue.take())
    assert "listed" in taken


def test_a_key_comes_when_it_is_due_and_no_sooner(queue: WorkQueue[str], clock: Clock) -> None:
    queue.add("a", after=10)
    clock.now += 9.9
    assert queue.take() is None
    clock.now += 0.2
    assert drain(queue) == ["a"]


def test_the_earlier_of_two_plans_stands_and_the_later_is_forgotten(queue: WorkQueue[str], clock: Clock) -> None:
    queue.add("a", after=10)
    queue.add("a", after=60)
    queue.add("b", after=60)
    queue.add("b", after=10)
    clock.now += 10
    assert sorted(drain(queue)) == ["a", "b"]
    clock.now += 100
    assert drain(queue) == []


def test_taking_a_key_drops_what_was_planned_for_it(queue: WorkQueue[str], clock: Clock) -> None:
    queue.add("a", after=10)
    queue.add("a")
    assert drain(queue) == ["a"]
    clock.now += 100
    assert drain(queue) == []


def test_what_is_planned_while_a_key_is_worked_on_stands(queue: WorkQueue[str], clock: Clock) -> None:
    queue.add("a")
    assert queue.take() == "a"
    queue.add("a", after=10)
    queue.done("a")
    assert queue.take() is None
    clock.now += 10
    assert drain(queue) == ["a"]


def test_failures_of_a_key_wait_longer_each_time_up_to_five_minutes(queue: WorkQueue[str]) -> None:
    waits = [queue.retry("a") for _ in range(12)]
    assert waits == [0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert queue.retry("b") == 0.5
    queue.forget("a")
    assert queue.retry("a") == 0.5


def test_plans_that_are_replaced_again_and_again_take_no_memory(queue: WorkQueue[str], clock: Clock) -> None:
    for _ in range(10_000):
        queue.add("a")
        queue.take()
        queue.add("a", after=604_800 - random.random())
        queue.done("a")
    assert len(queue._plan) < 200
    clock.now += 604_800
    assert drain(queue) == ["a"]


def test_how_long_a_key_waited_is_observed(clock: Clock) -> None:
    waits: list[float] = []
    queue: WorkQueue[str] = WorkQueue(clock=clock, observe=waits.append)
    queue.add("a", Priority.LIST)
    clock.now += 3
    queue.add("a", Priority.SPEC)  # still waiting since then
    clock.now += 2
    queue.take()
    assert waits == [5.0]


def test_an_urgent_worker_takes_keys_of_the_highest_priority_only(queue: WorkQueue[str]) -> None:
    queue.add("list", Priority.LIST)
    queue.add("child", Priority.CHILD)
    assert queue.take(urgent=True) is None
    queue.add("spec", Priority.SPEC)
    queue.add("child", Priority.SPEC)
    assert [queue.take(urgent=True), queue.take(urgent=True), queue.take(urgent=True)] == ["spec", "child", None]
    assert queue.busy == 3


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"), st.sampled_from("abc"), st.sampled_from(Priority), st.sampled_from([0.0, 0.0, 1.0, 5.0])
        ),
        st.tuples(st.just("take")),
        st.tuples(st.just("done")),
        st.tuples(st.just("pass"), st.sampled_from([0.5, 2.0])),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(STEPS)
def test_whatever_happens_no_addition_is_lost_and_no_key_is_handed_out_twice(steps: list[tuple]) -> None:  # type: ignore[type-arg]
    clock = Clock()
    queue: WorkQueue[str] = WorkQueue(clock=clock)
    active: list[str] = []
    wanted: dict[str, float] = {}  # key: until when it must have been taken, at the latest
    for step in steps:
        match step:
            case ("add", key, priority, after):
                queue.add(key, priority, after)
                wanted[key] = min(wanted.get(key, clock.now + after), clock.now + after)
            case ("take",):
                key = queue.take()
                if key is not None:
                    assert key not in active
                    active.append(key)
                    wanted.pop(key, None)
            case ("done",) if active:
                queue.done(active.pop(0))
            case ("pass", seconds):
                clock.now += seconds
    for key in active:
        queue.done(key)
    clock.now += 100
    assert set(drain(queue)) == set(wanted)


def test_a_closed_queue_forgets_its_keys_and_takes_none_until_it_is_opened(clock: Clock) -> None:
    waits: list[float] = []
    queue: WorkQueue[str] = WorkQueue(clock=clock, observe=waits.append)
    queue.add("waiting")
    queue.add("planned", after=5)
    queue.close()
    queue.add("meanwhile")
    queue.add("meanwhile, later", after=5)
    clock.now += 3600
    assert (len(queue), queue.take()) == (0, None)
    queue.open()
    queue.add("new")
    clock.now += 2
    assert drain(queue) == ["new"]
    assert waits == [2.0]
