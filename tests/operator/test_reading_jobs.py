"""Jobs as the API server holds them: its definitions may be newer than the operator, its older rules let more pass."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.api.job import Job, read_job
from finetune_operator.api.reasons import Phase, Reason
from finetune_operator.api.runtime import read_runtime
from finetune_trainer.errors import SpecError
from looks import UID, manifest

TIME = "2026-11-27T12:00:00Z"
LATER: dict[str, dict[str, Any]] = {
    "a field": {"training": {"maxSteps": 9, "globalBatchSize": 4, "learningRate": 1e-3, "lookahead": 3}},
    "an object": {"tuner": {"trials": 8}},
    "a field of a list's element": {"data": {"train": [{"uri": "s3://data/a.jsonl", "shard": 1}], "maxLength": 64}},
    "an option of DeepSpeed": {"deepspeed": {"overrides": {"zero_optimization.prophecy": True, "dump_state": True}}},
}
PATHS = {
    "a field": "spec.training.lookahead",
    "an object": "spec.tuner",
    "a field of a list's element": "spec.data.train[0].shard",
    "an option of DeepSpeed": 'spec.deepspeed.overrides["zero_optimization.prophecy"]',
}
ATTEMPT: dict[str, Any] = {"number": 1, "rayJob": "support-bot-abcde-1", "startedAt": TIME}


def read(status: dict[str, Any] | None = None, metadata: dict[str, Any] | None = None, **spec: Any) -> Job:
    found = manifest(**spec)
    found["metadata"] |= {"uid": UID, "resourceVersion": "7", "creationTimestamp": TIME, **(metadata or {})}
    return read_job(found | ({"status": status} if status else {}))


@pytest.mark.parametrize("case", LATER)
def test_before_its_first_attempt_a_job_waits_for_an_operator_that_knows_its_fields(case: str) -> None:
    with pytest.raises(SpecError) as refusal:
        read(**LATER[case])
    (problem,) = refusal.value.problems
    assert problem.path == PATHS[case]
    assert "not known to this operator, which is older: upgrade the operator" in problem.message


@pytest.mark.parametrize("case", LATER)
def test_a_job_that_has_had_an_attempt_is_read_without_them(case: str) -> None:
    job = read({"attempts": [ATTEMPT]}, **LATER[case])
    plain = manifest(**LATER[case])["spec"]
    for name in ("lookahead", "shard"):
        plain["training"].pop(name, None)
        plain["data"]["train"][0].pop(name, None)
    plain.pop("tuner", None)
    if "deepspeed" in plain:
        plain["deepspeed"] = {"overrides": {"dump_state": True}}
    assert job.manifest == read(**plain).manifest


@pytest.mark.parametrize("status", [None, {"attempts": [ATTEMPT]}], ids=["new", "started"])
def test_a_spec_that_contradicts_itself_is_refused_beside_such_a_field(status: dict[str, Any] | None) -> None:
    training = {"maxSteps": 9, "epochs": 1, "globalBatchSize": 4, "learningRate": 1e-3, "lookahead": 3}
    with pytest.raises(SpecError, match="cannot stand beside epochs"):
        read(status, training=training)


def test_others_may_label_a_job_as_they_like() -> None:
    many = {f"example.com/{number}": "x" for number in range(65)}
    read(metadata={"labels": many, "annotations": many, "somethingNew": {}})


def test_what_a_newer_operator_wrote_into_the_status_is_read_over() -> None:
    condition = {"status": "True", "reason": "Overheated", "lastTransitionTime": TIME, "severity": "low"}
    status: dict[str, Any] = {
        "phase": "Cooling",
        "temperature": 90,
        "progress": {"step": 7, "watts": 300},
        "conditions": [{"type": "Cool", **condition}, {"type": "Training", **condition}],
        "attempts": [{**ATTEMPT, "outcome": "Failed", "reason": "Overheated"}],
        "failures": [{"reason": "Overheated", "count": 1}, {"reason": "Hang", "count": 2}],
    }
    job = read(status)
    assert job.status.phase is Phase.PENDING
    assert job.status.progress is not None and job.status.progress.step == 7
    assert [(str(one.type), one.reason) for one in job.status.conditions] == [("Training", Reason.ERROR)]
    assert [(one.outcome, one.reason) for one in job.status.attempts] == [("Failed", Reason.ERROR)]
    assert [(one.reason, one.count) for one in job.status.failures] == [(Reason.HANG, 2)]


def test_a_runtime_names_a_field_that_only_newer_definitions_have_and_what_older_rules_let_pass() -> None:
    spec = {"image": "registry/trainer:1", "cooling": "Liquid", "head": {"memory": "8GB"}}
    with pytest.raises(SpecError) as refusal:
        read_runtime({"spec": spec})
    memory, cooling = refusal.value.problems
    assert (memory.path, memory.value) == ("spec.head.memory", "8GB")
    assert (cooling.path, cooling.value) == ("spec.cooling", "Liquid")
    assert "not known to this operator, which is older: upgrade the operator" in cooling.message
