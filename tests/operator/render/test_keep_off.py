"""What attempts before leave in the next one's pods: longer to commit, and nodes to keep off."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from finetune_operator.api.attempt import AttemptStatus
from finetune_operator.api.job import GRACE, Job
from finetune_operator.api.reasons import Reason
from finetune_operator.api.status import CheckpointStatus, JobStatus
from looks import T0, make_job
from rendering import Object, containers, render, runtime, templates, values

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
NOT_A = {"key": "metadata.name", "operator": "NotIn", "values": ["node-a"]}
NOT_B = {"key": "metadata.name", "operator": "NotIn", "values": ["node-b"]}
ZONE = {"key": "zone", "operator": "In", "values": ["z1"]}
RACK = {"key": "rack", "operator": "Exists"}


def after_ends_on(*nodes: str) -> Job:
    attempts = tuple(
        AttemptStatus(number=number, ray_job=f"b-{number}", started_at=T0, reason=Reason.NODE_LOST, node=node)
        for number, node in enumerate(nodes, 1)
    )
    return make_job(JobStatus(attempts=attempts))


def node_terms(job: Job, **spec: Any) -> list[Object]:
    """The required terms of which a node has to meet one, the same for head and workers."""
    made = templates(render(job, runtime(head={"spec": spec}, worker={"spec": spec}), 3))
    found: list[list[Object]] = [
        template["spec"].get("affinity", {}).get("nodeAffinity", {}).get(REQUIRED, {}).get("nodeSelectorTerms", [])
        for template in made.values()
    ]
    assert found[0] == found[1]
    return found[0]


def test_pods_keep_off_nodes_on_which_two_attempts_ended() -> None:
    assert node_terms(after_ends_on("node-a")) == []
    assert node_terms(after_ends_on("node-a", "node-b")) == []
    assert node_terms(after_ends_on("node-a", "node-b", "node-a")) == [{"matchFields": [NOT_A]}]
    both = node_terms(after_ends_on("node-b", "node-a", "node-b", "node-a"))
    assert both == [{"matchFields": [NOT_A, NOT_B]}]  # the API server takes one value in each


def test_what_the_runtime_asks_of_nodes_holds_as_well() -> None:
    terms = [{"matchExpressions": [ZONE]}, {"matchExpressions": [RACK], "matchFields": [NOT_B]}, {}]
    preferred = [{"weight": 1, "preference": {"matchExpressions": [RACK]}}]
    affinity: Object = {
        "nodeAffinity": {REQUIRED: {"nodeSelectorTerms": terms}, "preferredDuringScheduling": preferred},
        "podAntiAffinity": {REQUIRED: []},
    }
    job = after_ends_on("node-a", "node-a")
    assert node_terms(job, affinity=affinity) == [
        {"matchExpressions": [ZONE], "matchFields": [NOT_A]},
        {"matchExpressions": [RACK], "matchFields": [NOT_B, NOT_A]},
        {},  # is met by no node, and stays so
    ]
    kept = templates(render(job, runtime(worker={"spec": {"affinity": affinity}}), 3))["worker"]["spec"]["affinity"]
    assert kept["podAntiAffinity"] == affinity["podAntiAffinity"]
    assert kept["nodeAffinity"]["preferredDuringScheduling"] == preferred


def given(rendered: dict[str, Object]) -> tuple[str, ...]:
    """The grace period at every place that has to agree on it, less what each adds."""
    head, worker = (one["spec"] for one in templates(rendered).values())
    box = containers(rendered)["head"]
    hook, told = int(box["lifecycle"]["preStop"]["exec"]["command"][-2]), values(box)
    seconds = [head["terminationGracePeriodSeconds"] - 30, worker["terminationGracePeriodSeconds"] - 30, hook - 15]
    seconds += [int(told["RAY_JOB_STOP_WAIT_TIME_S"]) - 10, int(told["FINETUNE_GRACE_SECONDS"])]
    return (*map(str, seconds), rendered["RayJob"]["metadata"]["annotations"][GRACE])


def test_the_first_attempt_has_the_time_that_was_asked_for_or_the_runtimes() -> None:
    on = runtime(terminationGracePeriodSeconds=600)
    assert set(given(render(make_job(), runtime()))) == {"300"}
    assert set(given(render(make_job(), on))) == {"600"}
    assert set(given(render(make_job(terminationGracePeriodSeconds=900), on))) == {"900"}


def test_later_attempts_have_twice_what_a_commit_took_if_that_is_more() -> None:
    slow = JobStatus(checkpoint=CheckpointStatus(step=40, committed_at=T0, seconds=500, step_seconds=20))
    job = make_job(terminationGracePeriodSeconds=900)
    assert set(given(render(replace(job, status=slow), runtime(), 2))) == {"2040"}
    quick = JobStatus(checkpoint=CheckpointStatus(step=40, committed_at=T0, seconds=3, step_seconds=20))
    assert set(given(render(replace(job, status=quick), runtime(), 2))) == {"900"}
