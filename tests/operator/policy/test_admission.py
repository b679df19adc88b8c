"""The limit of running jobs: first come first served, namespaces in turn."""

from __future__ import annotations

from finetune_operator.policy.admission import Candidate, order, position
from looks import after


def waiting(namespace: str, name: str, since: float) -> Candidate:
    return Candidate((namespace, name), running=False, since=after(since))


def running(namespace: str, name: str) -> Candidate:
    return Candidate((namespace, name), running=True, since=after(0))


def test_the_oldest_job_of_a_namespace_comes_first() -> None:
    jobs = [waiting("a", "young", 20), waiting("a", "old", 10)]
    assert order(jobs) == [("a", "old"), ("a", "young")]


def test_namespaces_take_turns_whoever_submitted_more() -> None:
    many = [waiting("a", f"a{k}", k) for k in range(3)]
    few = [waiting("b", f"b{k}", 100 + k) for k in range(2)]
    assert [name for _, name in order([*many, *few])] == ["a0", "b0", "a1", "b1", "a2"]


def test_a_namespace_that_runs_jobs_already_waits_for_the_others() -> None:
    jobs = [running("a", "a0"), waiting("a", "a1", 1), waiting("b", "b0", 50)]
    assert order(jobs) == [("b", "b0"), ("a", "a1")]


def test_a_job_starts_while_there_is_room_and_else_knows_how_many_are_ahead() -> None:
    jobs = [running("a", "a0"), waiting("b", "b0", 1), waiting("b", "b1", 2), waiting("c", "c0", 3)]
    assert [position(key, jobs, limit=2) for key in order(jobs)] == [None, 0, 1]
    assert [position(key, jobs, limit=1) for key in order(jobs)] == [0, 1, 2]
