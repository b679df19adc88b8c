"""Jobs that a runtime does not take are refused with what to write."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.render import check_job
from looks import make_job
from rendering import Object, example, runtime, with_workers

SECRET: Object = {"secretRef": {"name": "s3"}}


@pytest.mark.parametrize("name", ["full-70b-zero3", "lora-8b-s3", "pretrain-parquet", "quickstart"])
def test_examples_for_a_cluster_run_on_the_default_runtime(name: str) -> None:
    assert check_job(example(name).manifest, runtime()) == []


def test_files_of_a_laptop_are_named_one_by_one() -> None:
    problems = check_job(example("laptop").manifest, runtime())
    assert [problem.path for problem in problems] == [
        "spec.checkpoint.uri",
        "spec.output.uri",
        "spec.data.train[0].uri",
        "spec.data.eval[0].uri",
    ]
    assert "which goes with the pod: write s3://<bucket>/<key>" in problems[0].message
    assert "is relative to the manifest, which lies in no folder on a cluster" in problems[2].message


def test_a_chat_template_beside_the_manifest_is_one_of_them() -> None:
    job = make_job(model={"uri": "s3://models/tiny", "chatTemplate": "file://./chat.jinja"})
    (problem,) = check_job(job.manifest, runtime())
    assert problem.path == "spec.model.chatTemplate"
    assert "write the template itself, or an absolute path" in problem.message
    job = make_job(model={"uri": "s3://models/tiny", "chatTemplate": "file:///templates/chat.jinja"})
    assert check_job(job.manifest, runtime()) == []


def test_files_may_be_written_to_what_head_and_workers_mount() -> None:
    job = make_job(checkpoint={"uri": "file:///shared/ckpt", "everySteps": 1}, output={"uri": "file:///shared/out"})
    mount: Object = {
        "spec": {"volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": "shared"}}]},
        "container": {"volumeMounts": [{"name": "shared", "mountPath": "/shared/"}]},
    }
    assert check_job(job.manifest, runtime(head=mount, worker=mount)) == []
    paths = ["spec.checkpoint.uri", "spec.output.uri"]
    assert [problem.path for problem in check_job(job.manifest, runtime(worker=mount))] == paths
    elsewhere = {**mount, "container": {"volumeMounts": [{"name": "shared", "mountPath": "/share"}]}}
    assert [problem.path for problem in check_job(job.manifest, runtime(head=elsewhere, worker=elsewhere))] == paths


def test_a_checkpoint_beside_the_manifest_is_one_of_them() -> None:
    start = {"uri": "file://./ckpt/default.first"}
    (problem,) = check_job(make_job(model={"uri": "s3://models/tiny", "checkpoint": start}).manifest, runtime())
    assert (problem.path, problem.value) == ("spec.model.checkpoint.uri", start["uri"])
    assert "write s3://<bucket>/<key>, or an absolute path" in problem.message


WRONG: list[tuple[Any, Object, str, Any, str]] = [
    (with_workers(9, 0), {"limits": {"maxWorkers": 8}}, "spec.workers.replicas", 9, "at most 8 (limits.maxWorkers)"),
    (
        with_workers(3, 8),
        {"limits": {"maxGpus": 16}},
        "spec.workers.gpusPerReplica",
        8,
        "3 replicas need 24 GPUs and runtime default allows 16 (limits.maxGpus)",
    ),
    (
        make_job(),
        {"storage": {"credentials": "Secret"}},
        "spec.storage.secretRef",
        None,
        "is missing: runtime default wants a Secret; write secretRef: {name: <Secret in this namespace>}",
    ),
    (
        make_job(storage=SECRET, serviceAccountName="a"),
        {"storage": {"credentials": "WebIdentity"}},
        "spec.storage.secretRef",
        "s3",
        "uses the service account's web identity: remove it",
    ),
    (
        make_job(),
        {"storage": {"credentials": "WebIdentity"}},
        "spec.serviceAccountName",
        None,
        "write the service account that has one",
    ),
    (make_job(), {"queue": {"required": True}}, "spec.queueName", None, "write a LocalQueue of this namespace"),
]  # fmt: skip


@pytest.mark.parametrize(("job", "on", "path", "value", "message"), WRONG, ids=[case[2] for case in WRONG])
def test_what_the_runtime_forbids_is_refused(job: Any, on: Object, path: str, value: Any, message: str) -> None:
    (problem,) = check_job(job.manifest, runtime(**on))
    assert (problem.path, problem.value) == (path, value)
    assert message in problem.message


@pytest.mark.parametrize(
    ("job", "on"),
    [
        (with_workers(8, 0), {"limits": {"maxWorkers": 8}}),
        (with_workers(2, 8), {"limits": {"maxGpus": 16}}),
        (make_job(storage=SECRET), {"storage": {"credentials": "Secret"}}),
        (make_job(serviceAccountName="a"), {"storage": {"credentials": "WebIdentity"}}),
        (make_job(), {"queue": {"required": True, "name": "shared"}}),
        (make_job(queueName="mine"), {"queue": {"required": True}}),
    ],
)
def test_what_is_just_allowed_is_accepted(job: Any, on: Object) -> None:
    assert check_job(job.manifest, runtime(**on)) == []
