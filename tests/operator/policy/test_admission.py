"""The limit of running jobs: namespaces in turn, the oldest job of each first."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.look import candidate_of
from finetune_operator.policy.admission import Candidate, Key, Line, Stand, order, position, turn
from looks import after


def waiting(namespace: str, name: str, since: float, ran_until: float | None = None) -> Candidate:
    ran = None if ran_until is None else after(ran_until)
    return Candidate((namespace, name), Stand.WAITING, since=after(since), ran_until=ran)


def live(namespace: str, name: str) -> Candidate:
    return Candidate((namespace, name), Stand.LIVE, since=after(0))


def ended(namespace: str, name: str, at: float) -> Candidate:
    return Candidate((namespace, name), Stand.OUT, since=after(0), ran_until=after(at))


def test_the_oldest_job_of_a_namespace_comes_first() -> None:
    jobs = [waiting("a", "young", 20), waiting("a", "old", 10)]
    assert order(jobs) == [("a", "old"), ("a", "young")]


def test_namespaces_take_turns_whoever_submitted_more() -> None:
    many = [waiting("a", f"a{k}", k) for k in range(3)]
    few = [waiting("b", f"b{k}", 100 + k) for k in range(2)]
    assert [name for _, name in order([*many, *few])] == ["a0", "b0", "a1", "b1", "a2"]


def test_a_namespace_that_runs_jobs_already_waits_for_the_others() -> None:
    jobs = [live("a", "a0"), waiting("a", "a1", 1), waiting("b", "b0", 50)]
    assert order(jobs) == [("b", "b0"), ("a", "a1")]


def test_a_namespace_whose_job_has_just_ended_waits_for_the_others() -> None:
    jobs = [ended("a", "a0", 100), waiting("a", "a1", 1), waiting("b", "b0", 50)]
    assert Line.of(jobs).may_start(limit=1) == [("b", "b0")]


def test_a_job_starts_while_there_is_room_and_else_knows_how_many_are_ahead() -> None:
    jobs = [live("a", "a0"), waiting("b", "b0", 1), waiting("b", "b1", 2), waiting("c", "c0", 3)]
    assert [position(key, jobs, limit=2) for key in order(jobs)] == [None, 0, 1]
    assert [position(key, jobs, limit=1) for key in order(jobs)] == [0, 1, 2]
    assert [Line.of(jobs).ahead(key, limit=2) for key in order(jobs)] == [None, 0, 1]
    assert [Line.of(jobs).ahead(key, limit=1) for key in order(jobs)] == [0, 1, 2]
    assert Line.of(jobs).ahead(("c", "later"), limit=1) is None


def test_a_job_that_pauses_between_attempts_keeps_its_place() -> None:
    pausing = replace(waiting("b", "pausing", 90, ran_until=100), stand=Stand.BETWEEN)
    jobs = [pausing, waiting("a", "old", 0)]
    assert Line.of(jobs).may_start(limit=1) == [pausing.key]
    assert position(("a", "old"), jobs, limit=1) == 0
    assert position(pausing.key, [*jobs, live("c", "c0")], limit=1) == 0  # the limit was lowered meanwhile


def test_a_job_that_stands_aside_lets_others_start_and_is_tried_at_its_own_place() -> None:
    refused = replace(waiting("a", "refused", 0), stand=Stand.ASIDE)
    jobs = [refused, waiting("a", "next", 1)]
    assert Line.of(jobs).may_start(limit=1) == [("a", "next")]
    assert position(refused.key, jobs, limit=1) is None
    assert position(refused.key, [*jobs, live("b", "b0")], limit=1) == 0


@dataclass
class Cluster:
    """Plays the line: jobs that want to start, as many at a time as the limit allows; the clock counts events.

    `line` is what was last seen of it: when somebody ended, or came who had to wait.
    """

    limit: int
    jobs: dict[Key, Candidate] = field(default_factory=dict)
    now: int = 0
    starts: list[Key] = field(default_factory=list)
    line: Line = field(default_factory=lambda: Line.of(()))

    def submit(self, namespace: str) -> None:
        self.now += 1
        key = (namespace, f"{self.now:04}")
        self.jobs[key] = waiting(*key, since=self.now)
        self.fill()
        if self.jobs[key].stand == Stand.WAITING:
            self.line = Line.of(self.jobs.values())

    def end(self, number: int, *, forget: bool) -> None:
        """One of the live jobs ends; with `forget` it is deleted at once."""
        living = [one for one in self.jobs.values() if one.stand == Stand.LIVE]
        if not living:
            return
        self.now += 1
        one = living[number % len(living)]
        self.jobs[one.key] = replace(one, stand=Stand.OUT, ran_until=after(self.now))
        if forget:
            del self.jobs[one.key]
        self.line = Line.of(self.jobs.values())
        self.fill()

    def fill(self) -> None:
        while free := Line.of(self.jobs.values()).may_start(self.limit):
            self.now += 1
            key = free[0]
            assert position(key, self.jobs.values(), self.limit) is None
            assert self.line.ahead(key, self.limit) is None
            self.starts.append(key)
            self.jobs[key] = replace(self.jobs[key], stand=Stand.LIVE)
            assert sum(one.stand == Stand.LIVE for one in self.jobs.values()) <= self.limit

    def live_in(self, namespace: str) -> int:
        return sum(one.stand == Stand.LIVE for key, one in self.jobs.items() if key[0] == namespace)

    def waits(self, namespace: str) -> bool:
        return any(one.stand == Stand.WAITING for key, one in self.jobs.items() if key[0] == namespace)


NAMESPACES = "abc"
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.sampled_from(NAMESPACES)),
        st.tuples(st.just("end"), st.integers(0, 5)),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 4), STEPS)
def test_nobody_has_two_turns_while_one_that_runs_nothing_waits(limit: int, steps: list[tuple[str, int]]) -> None:
    cluster = Cluster(limit)
    passed: dict[str, list[str]] = {namespace: [] for namespace in NAMESPACES}
    for what, which in steps:
        before = len(cluster.starts)
        starved = [one for one in NAMESPACES if cluster.waits(one) and not cluster.live_in(one)]
        if what == "submit":
            cluster.submit(str(which))
        else:
            cluster.end(int(which), forget=False)
        started = [namespace for namespace, _ in cluster.starts[before:]]
        for namespace in NAMESPACES:
            if namespace in starved and namespace not in started and not cluster.live_in(namespace):
                passed[namespace] += started
            else:
                passed[namespace] = []
            assert len(passed[namespace]) == len(set(passed[namespace])), (namespace, passed[namespace])


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3), STEPS)
def test_a_namespace_that_deletes_its_jobs_at_once_keeps_no_other_out(limit: int, steps: list[tuple[str, int]]) -> None:
    """What b submitted starts before anything that a submits after b's last turn, though of a nothing is remembered."""
    cluster = Cluster(limit)
    for what, which in steps:
        if what == "submit":
            cluster.submit(str(which))
        else:
            cluster.end(int(which), forget=True)
    last = cluster.now
    for namespace in ("b", *("a" for _ in range(20))):
        cluster.submit(namespace)
    mine = ("b", f"{last + 1:04}")
    while mine in cluster.jobs and cluster.jobs[mine].stand == Stand.WAITING:
        cluster.end(0, forget=True)
    younger = [key for key in cluster.starts[: cluster.starts.index(mine)] if key[0] == "a" and int(key[1]) > last + 1]
    assert len(younger) <= limit


ATTEMPT = {"number": 1, "rayJob": "bot-1", "startedAt": "2026-11-27T12:00:00Z", "finishedAt": "2026-11-27T12:10:00Z"}


def admitted(status: str, reason: str) -> dict[str, str]:
    return {"type": "Admitted", "status": status, "reason": reason}


@pytest.mark.parametrize(
    ("stand", "status"),
    [
        (Stand.WAITING, {}),
        (Stand.WAITING, {"conditions": [admitted("False", "RunLimitReached")], "queue": {"position": 3}}),
        (Stand.ASIDE, {"conditions": [admitted("False", "Forbidden")]}),
        (Stand.WAITING, {"conditions": [admitted("False", "Forbidden")], "queue": {"position": 0}}),
        (Stand.ASIDE, {"conditions": [admitted("False", "RuntimeUnsuitable")]}),
        (Stand.BETWEEN, {"conditions": [admitted("True", "Admitted")], "attempts": [ATTEMPT]}),
        (Stand.BETWEEN, {"conditions": [admitted("False", "Retrying")], "attempts": [ATTEMPT]}),
        (Stand.ASIDE, {"conditions": [admitted("False", "Forbidden")], "attempts": [ATTEMPT]}),
        (Stand.WAITING, {"conditions": [admitted("False", "Suspended")], "attempts": [ATTEMPT]}),
        (Stand.OUT, {"conditions": [{"type": "Failed", "status": "True", "reason": "Hang"}], "attempts": [ATTEMPT]}),
    ],
)
def test_where_a_job_stands_is_read_from_its_status(stand: Stand, status: dict[str, object]) -> None:
    metadata = {"namespace": "a", "name": "bot", "uid": "u", "creationTimestamp": "2026-11-27T12:00:00Z"}
    job = {"metadata": metadata, "spec": {}, "status": status}
    found = candidate_of(job, live=False)
    assert (found.key, found.stand, found.since) == (("a", "bot"), stand, after(0))
    assert found.ran_until == (after(0) + timedelta(minutes=10) if "attempts" in status else None)
    assert candidate_of(job, live=True).stand == Stand.LIVE
    assert candidate_of(job | {"spec": {"suspend": True}}, live=False).stand == Stand.OUT


def test_a_position_is_told_in_words() -> None:
    assert [turn(ahead) for ahead in (0, 1, 2)] == ["next in turn", "1 job ahead", "2 jobs ahead"]
