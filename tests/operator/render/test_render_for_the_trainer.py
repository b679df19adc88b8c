"""What is rendered is what `finetune run` reads: manifest, environment variables, ranks per pod."""

from __future__ import annotations

import json

import pytest

from finetune_operator.render.environment import RAY
from finetune_operator.render.places import JOB_DIR, SCRATCH
from finetune_trainer.launch.folders import STATE_DIR, WORKDIR
from finetune_trainer.launch.progress import channel_of
from finetune_trainer.launch.rank import ATTEMPT
from finetune_trainer.launch.ray_environment import QUIET
from finetune_trainer.spec import parse_job, ranks, run_id, to_manifest
from looks import UID, make_job
from rendering import containers, example, renamed, render, trainer_asks, values, with_workers


def test_the_run_reads_the_manifest_as_it_was_applied_and_is_named_by_the_uid() -> None:
    job = example("lora-8b-s3")
    read = parse_job(render(job)["ConfigMap"]["data"]["job.json"])
    assert run_id(read) == UID
    assert read.spec == job.manifest.spec


def test_annotations_stay_outside_because_kubectl_keeps_the_manifest_in_one() -> None:
    document = to_manifest(make_job().manifest)
    document["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": "{" + " " * 1000 + "}"}
    document["metadata"]["labels"] = {"team": "a"}
    read = json.loads(
        render(renamed(make_job(), manifest=parse_job(json.dumps(document))))["ConfigMap"]["data"]["job.json"]
    )
    assert read["metadata"] == {"name": "support-bot", "namespace": "team-a", "uid": UID, "labels": {"team": "a"}}


def test_the_driver_reports_to_the_operator_with_its_token_and_trusts_its_authority() -> None:
    rendered = render(number=3)
    head = containers(rendered)["head"]
    told = values(head)
    channel = channel_of(told)
    assert channel is not None
    assert channel.url == f"https://finetune-operator.finetune-system.svc:8443/v1/jobs/{UID}/progress"
    mounted = {mount["mountPath"] for mount in head["volumeMounts"]}
    assert channel.token_file.rpartition("/")[0] in mounted
    assert channel.ca_file == f"{JOB_DIR}/ca.crt"
    assert rendered["ConfigMap"]["data"]["ca.crt"].startswith("-----BEGIN CERTIFICATE-----")
    assert told[ATTEMPT] == "3"
    assert {told[name].startswith(f"{SCRATCH}/") for name in (STATE_DIR, WORKDIR)} == {True}


def test_workers_get_what_the_launcher_sets_for_itself() -> None:
    assert RAY.items() >= QUIET.items()
    for container in containers(render()).values():
        assert values(container).items() >= RAY.items()


CASES = [
    (replicas, gpus, cpu)
    for replicas in (1, 3)
    for gpus in (0, 1, 2, 3, 7, 8)
    for cpu in (None, "250m", "500m", "700m", "1", "1500m", "2", "5", "16", "96")
]


@pytest.mark.parametrize(("replicas", "gpus", "cpu"), CASES)
def test_ray_has_room_for_the_ranks_of_a_pod_and_for_no_rank_more(replicas: int, gpus: int, cpu: str | None) -> None:
    """Ray counts in 1/10,000, rounding down, so that thirds fit; test_placement_on_ray asks it."""
    job = with_workers(replicas, gpus, cpu)
    asked = trainer_asks(job)
    cluster = render(job)["RayJob"]["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    has = {"CPU": group["rayStartParams"]["num-cpus"], "GPU": group["rayStartParams"]["num-gpus"]}
    fit = min(int(has[name]) * 10_000 // int(amount * 10_000) for name, amount in asked.items())
    assert fit == max(1, gpus)
    assert group["replicas"] * fit == ranks(job.manifest)
    head = cluster["headGroupSpec"]["rayStartParams"]
    assert (head["num-cpus"], head["num-gpus"]) == ("0", "0")
