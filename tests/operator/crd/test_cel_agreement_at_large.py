"""`kubectl apply` and `finetune validate` agree where nobody wrote down what they should say."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from control_plane import ControlPlane
from finetune_trainer.errors import Problem, SpecError
from finetune_trainer.spec import parse_job
from kubernetes import client, config
from mistakes import Object, edited, read

# Values for a few fields each, right and wrong; some are wrong only beside others.
CHOICES: dict[str, list[Any]] = {
    "model.uri": ["hf://org/name@main", "hf://org/name:x", "s3://models/base", "file:///m", "base", "s3://Models/x"],
    "model.checkpoint": [
        None,
        {"uri": "s3://ckpt/a"},
        {"uri": "file:///ckpt/a", "which": "step:600"},
        {"uri": "s3://ckpt/a", "which": "17"},
        {"uri": "s3://ckpt/a", "which": "step:06"},
        {"uri": "hf://org/name"},
        {"which": "best"},
    ],
    "method": [{"type": "Full"}, {"type": "LoRA"}, {"type": "Full", "lora": {}}, {"type": "QLoRA"}],
    "method.lora": [{"rank": 4}, {"targetModules": ["all-linear"]}, {"targetModules": ["all-linear", "q"]}, None],
    "objective.type": ["SFT", "CPT", "DPO"],
    "data.train.0.format": ["Auto", "Text", "Messages", "Preference"],
    "data.train.0.columns": [{"messages": "m"}, {"text": "t"}, {"zzz": "z"}, {}],
    "data.train.1.uri": [
        "s3://data/",
        "file:///data/*.parquet",
        "file:///data/[a.parquet",
        "s3://data/[!a]/[[]x.jsonl",
    ],
    "data.train.1.weight": [0.5, 0, 1001],
    "data.eval": [[], None, [{"name": "a", "uri": "s3://d/a"}], [{"name": "a", "uri": "s3://data/a"}] * 2],
    "data.overlong": [None, "Split", "Cut"],
    "training.epochs": [None, 1, 0],
    "training.maxSteps": [None, 100, 0],
    "training.globalBatchSize": [1, 16, 128, 130, 131],
    "training.microBatchSize": [None, 3, 64],
    "training.gradientCheckpointing": ["Auto", "On", "off"],
    "deepspeed.zeroStage": [0, 1, 2, 3, 4],
    "deepspeed.offloadOptimizer": ["None", "CPU", "NVMe"],
    "deepspeed.offloadParameters": ["None", "CPU"],
    "deepspeed.overrides": [
        {"zero_optimization.overlap_comm": False},
        {"zero_optimization.stage3_prefetch_bucket_size": 5},
        {"steps_per_print": "1e3"},
        {"zero_optimization.stage": 2},
        {},
    ],
    "checkpoint": [{"uri": "s3://ckpt/x", "everySteps": 5}, {"uri": "s3://ckpt/x"}],
    "checkpoint.keepBest": [None, 0, 1],
    "evaluation": [None, {}, {"everySteps": 5}, {"compareBase": False}, {"earlyStopping": {"patience": 1}}],
    "output.uri": ["s3://ckpt/support-bot", "s3://models/llama-3.1-8b/", "file://./out", "s3://out/a b", "s3://out/*"],
    "output.format": [None, "Full", "Adapter", "Merged"],
    "workers.gpusPerReplica": [0, 1, 64],
    "workers.replicas": [1, 17, 300, 0],
    "workers.minReplicas": [None, 1, 9],
    "workers.resources": [None, {"cpu": 4}, {"cpu": "4x"}, {"memory": "1.5Ti"}, {"memory": "5G"}, {"memory": 5}],
    "failurePolicy.rules": [[], [{"reasons": ["Hang"], "maxRetries": 1}] * 2, [{"reasons": [], "maxRetries": 1}]],
    "suspend": [True, "true"],
    "queueName": [None, "a.b", "a_b"],
    "/metadata/name": ["a", "a" * 36, "a" * 37, "1a", "a.b"],
}


def some_manifests(count: int) -> Iterator[Object]:
    """The full manifest with 1 to 5 changes; the same ones each time."""
    chance = random.Random(5)
    while count:
        paths = chance.sample(sorted(CHOICES), chance.randint(1, 5))
        try:
            yield edited(read("job.yaml"), {path: chance.choice(CHOICES[path]) for path in sorted(paths)})
            count -= 1
        except (KeyError, IndexError, TypeError):
            continue  # a change within what another one took away


PLACES = ("model.uri", "model.checkpoint.uri", "data.train.0.uri", "data.eval.0.uri", "checkpoint.uri", "output.uri")
SAME = "write another folder"  # which is no matter of one address
ADDRESSES = [address for line in read("addresses.yaml") for address in line]


@pytest.fixture(scope="module")
def jobs(control_plane: ControlPlane) -> Iterator[client.CustomObjectsApi]:
    file = str(control_plane.kubeconfig())
    with config.new_client_from_config(file) as api:  # type: ignore[no-untyped-call]  # this half of it has no types
        yield client.CustomObjectsApi(api)


def problems(manifest: Object) -> tuple[Problem, ...]:
    try:
        parse_job(json.dumps(manifest))
    except SpecError as error:
        return error.problems
    return ()


def create(jobs: client.CustomObjectsApi, manifest: Object) -> tuple[Object | None, list[tuple[str, str]]]:
    """The job as the API server would store it, or the fields that it refuses, with what it says of each."""
    place = ("finetune.dev", "v1alpha1", "default", "finetunejobs")
    try:
        stored: Any = jobs.create_namespaced_custom_object(*place, manifest, dry_run="All", field_validation="Strict")
    except client.ApiException as error:
        status = json.loads(error.body or "")
        causes = status.get("details", {}).get("causes", [])
        return None, [(cause["field"], cause["message"]) for cause in causes] or [("", status["message"])]
    return stored, []


def test_both_accept_the_same_manifests_and_read_the_same_job(jobs: client.CustomObjectsApi) -> None:
    seen = {"accepted": 0, "refused": 0}
    for manifest in some_manifests(200):
        stored, mistakes = create(jobs, manifest)
        seen["refused" if mistakes else "accepted"] += 1
        assert bool(problems(manifest)) == bool(mistakes), mistakes
        if stored:
            assert parse_job(json.dumps(stored)).spec == parse_job(json.dumps(manifest)).spec
    assert min(seen.values()) > 30, seen


@pytest.mark.parametrize("address", ADDRESSES)
def test_both_say_the_same_of_an_address_wherever_it_stands(jobs: client.CustomObjectsApi, address: str) -> None:
    manifest = edited(read("job.yaml"), dict.fromkeys(PLACES, address))
    _, mistakes = create(jobs, manifest)
    ours = {field: text.removeprefix("Invalid value: ") for field, text in mistakes if SAME not in text}
    theirs = {one.path: f"{one.message} (got {one.value!r})" for one in problems(manifest) if SAME not in one.message}
    assert ours == theirs
