"""The class of an attempt's end, from reports, pods and the RayJob."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from finetune_operator.api.attempt import AttemptStatus
from finetune_operator.api.reasons import ConditionType, Reason
from finetune_operator.api.report import Failure
from finetune_operator.api.status import Condition, JobStatus, StopRequest
from finetune_operator.observe import PodView
from finetune_operator.policy.classify import EXIT_CODES, End, end_of, failure_in, next_judgement
from looks import T0, World, after, heard, make_job, pod, pods, ray_job

ATTEMPT = AttemptStatus(number=1, ray_job="support-bot-abcde-1", started_at=T0, admitted_at=T0, running_at=T0)
STOPPED = Failure(15, "Stopped", "stopped at step 7")


def end(world: World) -> End | None:
    return end_of(ATTEMPT, world.seen())


def ended(code: int, reason: str = "Broken", message: str = "it broke") -> str:
    return json.dumps({"kind": "ended", "exitCode": code, "failure": {"reason": reason, "message": message}})


def failed_ray_job(log: str, **more: Any) -> dict[int, Any]:
    text = f"Job entrypoint command failed with exit code 1, last available logs (truncated to 20,000 chars):\n{log}"
    return {1: ray_job(ray_status="FAILED", deployment="Failed", reason="AppFailed", message=text, **more)}


def test_an_attempt_that_runs_has_no_end() -> None:
    assert end(World(ray_jobs={1: ray_job()}, pods=pods(), heard=heard())) is None


def test_ray_says_that_the_driver_succeeded() -> None:
    found = end(World(ray_jobs={1: ray_job(ray_status="SUCCEEDED")}, pods=pods()))
    assert found is not None and (found.outcome, found.reason) == ("Succeeded", Reason.SUCCEEDED)


def test_a_run_that_told_its_result_has_succeeded_even_when_its_head_is_lost() -> None:
    head = pod("head", phase="Failed")
    found = end(World(ray_jobs={1: ray_job()}, pods=(head,), heard=heard(finished=True)))
    assert found is not None and found.outcome == "Succeeded"


@pytest.mark.parametrize(("code", "reason"), sorted(EXIT_CODES.items()))
def test_the_class_that_the_driver_tells_wins_over_what_happened_to_a_pod(code: int, reason: Reason) -> None:
    evicted = (pod("head"), pod(disruption="EvictionByEvictionAPI", phase="Failed"))
    told = heard(failure=Failure(code, "Some", "cause"))
    found = end(World(ray_jobs=failed_ray_job(""), pods=evicted, heard=told))
    assert found is not None and (found.outcome, found.reason, found.message) == ("Failed", reason, "Some: cause")


FATES: list[tuple[dict[str, Any], Reason]] = [
    ({"ended": (137, "OOMKilled")}, Reason.HOST_OUT_OF_MEMORY),
    ({"disruption": "PreemptionByScheduler"}, Reason.PREEMPTED),
    ({"disruption": "DeletionByTaintManager"}, Reason.NODE_LOST),
    ({"disruption": "EvictionByEvictionAPI"}, Reason.EVICTED),
    ({"reason": "Evicted", "message": "The node was low on resource: memory."}, Reason.EVICTED),
    ({"reason": "NodeLost"}, Reason.NODE_LOST),
    ({"reason": "Terminated", "message": "imminent node shutdown"}, Reason.PREEMPTED),
]


@pytest.mark.parametrize(("fate", "reason"), FATES)
def test_a_plain_error_of_the_driver_is_explained_by_what_happened_to_a_pod(
    fate: dict[str, Any], reason: Reason
) -> None:
    told = heard(failure=Failure(1, "PeerLost", "connection closed"))
    found = end(World(ray_jobs=failed_ray_job(""), pods=(pod("head"), pod(**fate)), heard=told))
    assert found is not None and found.reason == reason
    assert "worker-1-0" in found.message and "connection closed" in found.message


@pytest.mark.parametrize(("fate", "reason"), FATES)
def test_a_head_that_ended_is_seen_from_the_pod_while_the_ray_job_still_says_running(
    fate: dict[str, Any], reason: Reason
) -> None:
    head: PodView = pod("head", **{"phase": "Failed", **fate})
    found = end(World(ray_jobs={1: ray_job()}, pods=(head, pod())))
    assert found is not None and found.reason == reason


def test_a_head_that_is_gone_from_an_attempt_that_had_pods_is_a_lost_node() -> None:
    world = World(ray_jobs={1: ray_job()}, pods=(pod(),), now=after(30))
    assert end(world) is None
    assert next_judgement(ATTEMPT, world.seen()) == after(61)
    world.now = after(61)
    found = end(world)
    assert found is not None and found.reason == Reason.NODE_LOST


def test_the_exit_code_and_cause_are_read_from_the_end_of_the_drivers_log_when_no_report_came() -> None:
    found = end(World(ray_jobs=failed_ray_job(f"noise\n{ended(11, 'DataError', 'file x is torn')}\n"), pods=pods()))
    assert found is not None and (found.reason, found.message) == (Reason.BAD_DATA, "DataError: file x is torn")


@pytest.mark.parametrize(
    ("log", "code", "message"),
    [
        ("failed with exit code 14, last logs:\nstorage is away", 14, "storage is away"),
        (ended(12, "DeviceOutOfMemory", "no room"), 12, "no room"),
        ('{"kind": "torn', None, None),
        ("", None, None),
    ],
)
def test_a_log_tells_its_exit_code_and_last_line(log: str, code: int | None, message: str | None) -> None:
    found = failure_in(log)
    assert (found and found.exit_code, found and found.message) == (code, message)


@pytest.mark.parametrize(
    ("reason", "deployment", "expected"),
    [
        ("ValidationFailed", "ValidationFailed", Reason.VALIDATION),
        ("SubmissionFailed", "Failed", Reason.RAY_INTERNAL),
        ("JobStatusCheckTimeoutExceeded", "Failed", Reason.RAY_INTERNAL),
        ("AppFailed", "Failed", Reason.ERROR),
    ],
)
def test_kuberays_reasons_serve_when_nothing_else_speaks(reason: str, deployment: str, expected: Reason) -> None:
    silent = ray_job(ray_status="", deployment=deployment, reason=reason, message="why it failed")
    found = end(World(ray_jobs={1: silent}, pods=()))
    assert found is not None and (found.reason, found.message) == (expected, "why it failed")


def test_a_stop_with_a_commit_that_was_asked_for_is_no_failure() -> None:
    stop = StopRequest(reason=Reason.ACTIVE_DEADLINE, attempt=1, deadline=after(300))
    for job, reason in (
        (make_job(JobStatus(stop=stop)), Reason.ACTIVE_DEADLINE),
        (make_job(suspend=True), Reason.SUSPENDED),  # the run heard of it before the status said so
        (make_job(deleted=T0), Reason.DELETED),
    ):
        found = end(World(job, ray_jobs=failed_ray_job(""), pods=pods(), heard=heard(failure=STOPPED)))
        assert found == End("Stopped", reason, "stopped at step 7")


@pytest.mark.parametrize(("fate", "reason"), FATES)
def test_a_stop_that_the_operator_did_not_ask_for_counts_as_what_happened_to_a_pod(
    fate: dict[str, Any], reason: Reason
) -> None:
    leaving = (pod("head"), pod(**fate))
    for told in (heard(failure=STOPPED), None):  # its report may be lost: its log says the same
        found = end(World(ray_jobs=failed_ray_job(ended(15)), pods=leaving, heard=told))
        assert found is not None and (found.outcome, found.reason) == ("Failed", reason)


def test_a_stop_that_nobody_explains_is_an_error() -> None:
    found = end(World(ray_jobs=failed_ray_job(""), pods=pods(), heard=heard(failure=STOPPED)))
    assert found == End("Failed", Reason.ERROR, "the run was stopped, not by the operator: stopped at step 7")


def test_a_drained_head_may_commit_before_its_attempt_is_over() -> None:
    drained = pod("head", deleting_since=T0, grace_seconds=330, disruption="EvictionByEvictionAPI")
    world = World(ray_jobs={1: ray_job()}, pods=(drained, pod()), heard=heard(), now=after(300))
    assert end(world) is None
    world.pods = (replace(drained, phase="Failed", ready=False), pod())
    found = end(world)
    assert found is not None and found.reason == Reason.EVICTED


@pytest.mark.parametrize("told", [None, STOPPED])
def test_why_a_head_had_to_go_is_known_when_it_is_gone(told: Failure | None) -> None:
    noted = Condition(
        type=ConditionType.CLUSTER_READY,
        status="False",
        reason=Reason.PREEMPTED,
        message="pod head-1-0: PreemptionByScheduler",
        last_transition_time=T0,
    )
    job = make_job(JobStatus(attempts=(ATTEMPT,), conditions=(noted,)))
    world = World(job, ray_jobs={1: ray_job()}, pods=(pod(),), heard=heard(failure=told), now=after(61))
    found = end(world)
    assert found is not None and (found.outcome, found.reason) == ("Failed", Reason.PREEMPTED)
    assert noted.message in found.message


def test_a_stop_whose_head_is_gone_without_a_word_is_a_lost_node() -> None:
    world = World(ray_jobs={1: ray_job()}, pods=(pod(),), heard=heard(failure=STOPPED), now=after(61))
    found = end(world)
    assert found is not None and (found.outcome, found.reason) == ("Failed", Reason.NODE_LOST)


def test_a_head_on_a_node_that_does_not_answer_is_lost_at_once() -> None:
    cut_off: dict[str, Any] = {"ready": False, "cut_off_since": after(-60), "disruption": "DeletionByTaintManager"}
    head = pod("head", deleting_since=T0, grace_seconds=330, **cut_off)
    found = end(World(ray_jobs={1: ray_job()}, pods=(head, pod()), heard=heard()))
    assert found is not None and (found.reason, found.node) == (Reason.NODE_LOST, "node-1")


@pytest.mark.parametrize(("last_report", "reason"), [(61, Reason.ERROR), (60, Reason.HOST_OUT_OF_MEMORY)])
def test_a_worker_that_ran_out_of_memory_explains_no_failure_after_the_run_went_on(
    last_report: float, reason: Reason
) -> None:
    told = heard(at=after(last_report), failure=Failure(1, "Error", "KeyError: 'x'"))
    world = World(ray_jobs=failed_ray_job(""), pods=(pod("head"), pod(ended=(137, "OOMKilled"), ended_at=T0)))
    world.heard, world.now = told, after(last_report)
    found = end(world)
    assert found is not None and found.reason == reason


def test_a_run_that_told_its_result_has_succeeded_when_nothing_more_is_heard() -> None:
    world = World(ray_jobs={1: ray_job()}, pods=pods(), heard=heard(finished=True), now=after(30))
    assert end(world) is None
    assert next_judgement(ATTEMPT, world.seen()) == after(31)
    world.now = after(31)
    found = end(world)
    assert found is not None and found.outcome == "Succeeded"


def test_a_driver_that_told_its_failure_gets_time_to_end_by_itself() -> None:
    world = World(
        ray_jobs={1: ray_job()}, pods=pods(), heard=heard(failure=Failure(11, "DataError", "torn")), now=after(5)
    )
    assert end(world) is None
    assert next_judgement(ATTEMPT, world.seen()) == after(31)
    world.now = after(31)
    found = end(world)
    assert found is not None and found.reason == Reason.BAD_DATA


def test_a_ray_job_that_its_queue_suspends_again_was_preempted() -> None:
    found = end(World(ray_jobs={1: ray_job(suspended=True, ray_status="")}, pods=()))
    assert found is not None and found.reason == Reason.PREEMPTED


def test_a_ray_job_deleted_by_somebody_else_is_named() -> None:
    found = end(World(ray_jobs={}, pods=()))
    assert found is not None and "support-bot-abcde-1 was deleted" in found.message
