"""What Kueue says of an attempt: why it waits, and as what its eviction counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from finetune_operator.api.reasons import ConditionType, Phase, Reason
from finetune_operator.api.report import Failure
from finetune_operator.api.status import JobStatus
from finetune_operator.policy.decide import decide
from finetune_operator.trim import trim_workload
from finetune_operator.workload import Said, WorkloadView, read_workload
from looks import World, heard, make_job, pods, ray_job

NO_ROOM = Said("Pending", "insufficient unused quota for nvidia.com/gpu in flavor default, 1 more needed")
Condition = tuple[str, str, str, str]
RESERVED: Condition = ("QuotaReserved", "True", "QuotaReserved", "Quota reserved in ClusterQueue a")


def workload(*conditions: Condition, **status: Any) -> dict[str, Any]:
    words = ("type", "status", "reason", "message")
    said = [dict(zip(words, one, strict=True)) for one in conditions]
    metadata = {"namespace": "a", "name": "w", "uid": "u", "resourceVersion": "7", "labels": {"x": "y"}}
    return {"metadata": metadata, "spec": {"podSets": []}, "status": {"conditions": said, **status}}


@pytest.mark.parametrize(
    ("found", "waits"),
    [
        (workload(), None),
        (workload(("QuotaReserved", "False", NO_ROOM.reason, NO_ROOM.message)), str(NO_ROOM)),
        (workload(("QuotaReserved", "False", "Inadmissible", "")), "Inadmissible"),
        (workload(RESERVED, ("Admitted", "False", "NoReservation", "x")), "NoReservation: x"),
        (
            workload(
                RESERVED,
                ("Admitted", "False", "UnsatisfiedAdmissionChecks", "not all checks"),
                admissionChecks=[
                    {"name": "quota", "state": "Ready", "message": "fine"},
                    {"name": "nodes", "state": "Pending", "message": "2 of 4 are there"},
                ],
            ),
            "UnsatisfiedAdmissionChecks: not all checks; nodes is Pending: 2 of 4 are there",
        ),
        (workload(RESERVED, ("Admitted", "True", "Admitted", "x")), None),
    ],
)
def test_why_a_workload_waits(found: dict[str, Any], waits: str | None) -> None:
    for known in (found, trim_workload(found)):  # what is cached of it says the same
        said = read_workload(known).waits
        assert (said if said is None else str(said)) == waits


def test_an_eviction_counts_until_the_quota_is_reserved_again() -> None:
    evicted = ("Evicted", "True", "Preempted", "for another")
    assert read_workload(workload(RESERVED, evicted)).evicted == Said("Preempted", "for another")
    assert read_workload(workload(RESERVED, ("Evicted", "False", "QuotaReserved", "x"))).evicted is None


def queued(**view: Any) -> World:
    suspended = ray_job(suspended=True, ray_status="", deployment="", **view)
    return World(job=make_job(), ray_jobs={1: suspended})


def look(world: World) -> JobStatus:
    found = decide(world.seen()).status
    world.write(found)
    return found


def test_a_queue_that_the_runtime_chose_is_named_too() -> None:
    status = look(queued(queue="of-the-runtime"))
    admitted = status.condition(ConditionType.ADMITTED)
    assert admitted is not None and admitted.message == "waits in queue of-the-runtime for quota"
    assert status.queue is not None and status.queue.name == "of-the-runtime"


def test_a_ray_job_that_somebody_suspended_by_hand_is_told_apart() -> None:
    status = look(queued())
    admitted = status.condition(ConditionType.ADMITTED)
    assert admitted is not None and "is suspended, and by no queue" in admitted.message
    assert status.phase == Phase.QUEUED


def test_what_kueue_says_at_length_is_cut_where_it_would_not_fit() -> None:
    long = Said("Pending", "x" * 40_000)
    status = look(queued(queue="a", workload=WorkloadView(waits=long, evicted=None)))
    assert status.queue is not None and len(status.queue.reason or "") == 1024


def test_an_admitted_job_waits_no_longer_though_nobody_saw_it_let_in() -> None:
    """An operator that starts anew may see the pods first."""
    world = queued(queue="a")
    look(world)
    world.ray_jobs = {1: ray_job(queue="a")}
    world.pods = pods()
    status = look(world)
    admitted = status.condition(ConditionType.ADMITTED)
    assert admitted is not None and (admitted.status, admitted.reason) == ("True", Reason.ADMITTED)
    assert status.queue is None


@pytest.mark.parametrize(
    ("evicted", "reason"),
    [
        (None, Reason.PREEMPTED),
        (Said("Preempted", "for another"), Reason.PREEMPTED),
        (Said("ClusterQueueStopped", "stopped"), Reason.PREEMPTED),
        (Said("NodeFailures", "node-1"), Reason.NODE_LOST),
        (Said("PodsReadyTimeout", "not ready in 300 s"), Reason.START_DEADLINE),
    ],
)
def test_an_evicted_attempt_failed_for_what_kueue_says(evicted: Said | None, reason: Reason) -> None:
    world = World(ray_jobs={1: ray_job(queue="a")}, pods=pods())
    look(world)
    world.ray_jobs = {1: ray_job(queue="a", suspended=True, workload=WorkloadView(None, evicted))}
    living = look(world).attempt
    assert living is not None and living.finished_at is None  # as long as the head is there, the run may commit
    world.pods = ()
    ended = look(world).attempt
    assert ended is not None and (ended.outcome, ended.reason) == ("Failed", reason)
    said = "" if evicted is None else f": {evicted}"
    assert ended.message == f"queue a took the quota back{said}"


@pytest.mark.parametrize("evicted", [Said("Preempted", "for another"), Said("PodsReadyTimeout", "not ready")])
def test_what_an_evicted_run_says_of_its_stop_stands_beside_what_kueue_says(evicted: Said) -> None:
    world = World(ray_jobs={1: ray_job(queue="a")}, pods=pods(), heard=heard(step=5))
    look(world)
    world.ray_jobs = {1: ray_job(queue="a", suspended=True, workload=WorkloadView(None, evicted))}
    world.heard = replace(heard(step=6), failure=Failure(15, "Stopped", "stopped at step 6"))
    world.pods = ()
    ended = look(world).attempt
    assert ended is not None and ended.outcome == "Failed"
    assert ended.message == f"queue a took the quota back: {evicted}; the run said Stopped: stopped at step 6"
