"""What is cached of RayJobs and pods says the same as the whole objects, and is small."""

from __future__ import annotations

import json
from typing import Any

from finetune_operator.api.job import ATTEMPT, FINALIZER, GRACE, JOB_UID, QUEUE, ROLE, read_job
from finetune_operator.observe import controlled, labelled, read_pod, read_ray_job
from finetune_operator.trim import trim_job, trim_pod, trim_ray_job
from looks import manifest

METADATA = {
    "namespace": "team-a",
    "name": "bot-abcde-1",
    "uid": "u",
    "resourceVersion": "7",
    "generation": 1,
    "creationTimestamp": "2026-11-27T12:00:00Z",
    "deletionTimestamp": "2026-11-27T12:10:00Z",
    "deletionGracePeriodSeconds": 30,
    "finalizers": ["ray.io/rayjob-finalizer"],
    "labels": {JOB_UID: "j", ATTEMPT: "1", ROLE: "head", QUEUE: "team-a"},
    "annotations": {"a": "b" * 1000, GRACE: "300"},
    "ownerReferences": [{"kind": "FineTuneJob", "name": "bot", "uid": "j", "controller": True}],
    "managedFields": [{"manager": "m", "fieldsV1": {f"f:{name}": {} for name in range(100)}}],
}
TEMPLATE = {"containers": [{"name": "ray", "env": [{"name": f"V{n}", "value": "x" * 50} for n in range(50)]}]}


def test_a_trimmed_job_is_read_like_the_whole_one() -> None:
    found = manifest()
    applied = {"kubectl.kubernetes.io/last-applied-configuration": json.dumps(found)}
    metadata = {**METADATA, "annotations": applied, "finalizers": [FINALIZER]}
    whole: dict[str, Any] = {**found, "metadata": metadata, "status": {"phase": "Queued"}}
    small = trim_job(whole)
    assert read_job(small) == read_job(whole)
    assert read_job(small).finalizers == (FINALIZER,)
    assert len(json.dumps(small)) < len(json.dumps(whole)) / 2


def test_a_trimmed_ray_job_is_read_like_the_whole_one() -> None:
    status = {"jobStatus": "FAILED", "jobDeploymentStatus": "Failed", "reason": "AppFailed", "message": "exit 10"}
    spec = {"suspend": True, "rayClusterSpec": {"headGroupSpec": {"template": {"spec": TEMPLATE}}}}
    refused = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreateHeadPod", "message": "forbidden"}
    conditions = [{"type": "HeadPodReady", "status": "False", "reason": "x"}, refused]
    cluster = {"conditions": conditions, "desiredWorkerReplicas": 2, **TEMPLATE}
    whole: dict[str, Any] = {
        "metadata": METADATA,
        "spec": spec,
        "status": {**status, "rayClusterName": "c", "rayClusterStatus": cluster},
    }
    small = trim_ray_job(whole)
    view = read_ray_job(small)
    assert view == read_ray_job(whole)
    assert view is not None and view.grace_seconds == 300
    assert (view.cluster, view.wanted_workers) == ("c", 2)
    assert view != read_ray_job({**small, "status": status})
    assert controlled(small) == controlled(whole) == ["team-a/j"]
    assert len(json.dumps(small)) < len(json.dumps(whole)) / 10


def test_a_trimmed_pod_is_read_like_the_whole_one() -> None:
    waiting = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    ended = {"lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
    conditions = [
        {"type": "Ready", "status": "False", "lastTransitionTime": "2026-11-27T12:05:00Z"},
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0 of 3 nodes"},
        {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"},
    ]
    status: dict[str, Any] = {"phase": "Failed", "reason": "Evicted", "message": "low on memory", "podIPs": TEMPLATE}
    status |= {"conditions": conditions, "initContainerStatuses": [waiting], "containerStatuses": [ended]}
    whole: dict[str, Any] = {"metadata": METADATA, "spec": {"nodeName": "node-1", **TEMPLATE}, "status": status}
    small = trim_pod(whole)
    view = read_pod(small)
    assert view == read_pod(whole)
    assert view is not None
    assert view.node == "node-1"
    assert view.grace_seconds == 30
    assert view.cut_off_since is not None
    assert labelled(small) == labelled(whole) == ["team-a/j"]
    assert len(json.dumps(small)) < len(json.dumps(whole)) / 5


def test_what_has_no_spec_or_status_yet_is_trimmed_too() -> None:
    whole = {"metadata": METADATA}
    assert read_pod(trim_pod(whole)) == read_pod(whole)
    assert read_ray_job(trim_ray_job(whole)) == read_ray_job(whole)
