"""Mistakes that one field shows, each with the exact place, value and advice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Problems = Callable[[dict[str, Any]], list[str]]

FIELD_MISTAKES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown field, other case": (
        {"training.globalBatchSize": None, "training.globalbatchsize": 128},
        ["spec.training.globalbatchsize: is no field here: write globalBatchSize (got 128)"],
    ),
    "unknown field, near": (
        {"data.train.0.colums": {"messages": "chat"}},
        ["spec.data.train[0].colums: is no field here: write columns (got 'a mapping')"],
    ),
    "unknown field of another trainer": (
        {"training.gradient_accumulation_steps": 4},
        [
            "spec.training.gradient_accumulation_steps: is no field here: write spec.training.globalBatchSize instead "
            "(got 4)"
        ],
    ),
    "field in the wrong part": (
        {"training.maxLength": 512},
        ["spec.training.maxLength: is no field here: write spec.data.maxLength instead (got 512)"],
    ),
    "unknown field like nothing": (
        {"output.zzz": 1},
        ["spec.output.zzz: is no field here: remove it or write one of uri, format (got 1)"],
    ),
    "GPUs among the resources": (
        {"workers.resources": {"nvidia.com/gpu": 8}},
        [
            'spec.workers.resources["nvidia.com/gpu"]: is no field here: write spec.workers.gpusPerReplica instead '
            "(got 8)"
        ],
    ),
    "a secret in the manifest is not shown": (
        {"storage.secretAccessKey": "wJalrXUtnFEMI"},
        [
            "spec.storage.secretAccessKey: is no field, and a manifest holds no credentials: name a Secret in "
            "spec.storage.secretRef or spec.hub.tokenSecretRef, or use the environment or an AWS profile (got '***')"
        ],
    ),
    "checkpoint that cannot be": (
        {"model.checkpoint": {"uri": "s3://ckpt/a/b", "which": "newest"}},
        [
            "spec.model.checkpoint.which: names no checkpoint: write latest, best, step:N, or a SEQ of `finetune "
            "checkpoints list` (got 'newest')"
        ],
    ),
    "checkpoint without an address": (
        {"model.checkpoint": {"which": "best"}},
        [
            "spec.model.checkpoint.uri: is required: write for instance uri: "
            '"s3://checkpoints/team-a/default.first-job" (folder of the run, as in `status.checkpoint.latest`) '
            "(got nothing)"
        ],
    ),
    "checkpoint by the name of another trainer": (
        {"training.resume_from_checkpoint": "s3://ckpt/a"},
        [
            "spec.training.resume_from_checkpoint: is no field here: write spec.model.checkpoint instead "
            "(got 's3://ckpt/a')"
        ],
    ),
    "required number": (
        {"training.learningRate": None},
        [
            "spec.training.learningRate: is required: write for instance learningRate: 0.0002 (highest learning rate) "
            "(got nothing)"
        ],
    ),
    "required object": (
        {"workers": None},
        [
            "spec.workers: is required: write for instance workers: {gpusPerReplica: 8} "
            "(how much hardware the run gets) (got nothing)"
        ],
    ),
    "text for a whole number": (
        {"training.globalBatchSize": "128"},
        ["spec.training.globalBatchSize: is text: write globalBatchSize: 128 without quotes (got '128')"],
    ),
    "text for a number": (
        {"training.learningRate": "2e-4x"},
        ["spec.training.learningRate: must be a number: write for instance learningRate: 0.0002 (got '2e-4x')"],
    ),
    "fraction for a whole number": (
        {"training.epochs": 1.5},
        ["spec.training.epochs: must be a whole number: write epochs: 2 (got 1.5)"],
    ),
    "true for a whole number": (
        {"training.seed": True},
        ["spec.training.seed: must be a whole number: write for instance seed: 0 (got True)"],
    ),
    "on for true": ({"suspend": "on"}, ["spec.suspend: is text: write suspend: true (without quotes) (got 'on')"]),
    "number for a text": ({"queueName": 7}, ['spec.queueName: must be a text: write queueName: "7" in quotes (got 7)']),
    "number for a label": (
        {"/metadata/labels": {"team": 7}},
        ['metadata.labels.team: must be a text: write team: "..." in quotes (got 7)'],
    ),
    "number for an object": (
        {"training": 5},
        [
            "spec.training: must be a mapping: write for instance training: {globalBatchSize: 128, "
            "learningRate: 0.0002} (got 5)"
        ],
    ),
    "number for a list": (
        {"training.optimizer.betas": 0.9},
        ["spec.training.optimizer.betas: must be a list: write for instance betas: [0.9, 0.95] (got 0.9)"],
    ),
    "enum in other case": (
        {"method.type": "Lora"},
        ["spec.method.type: is none of the allowed values: write LoRA (allowed: Full, LoRA, QLoRA) (got 'Lora')"],
    ),
    "enum like nothing": (
        {"training.precision": "int8"},
        ["spec.training.precision: is none of the allowed values: write BF16 or FP32 (got 'int8')"],
    ),
    "other version": (
        {"/apiVersion": "finetune.dev/v1"},
        ["apiVersion: is not supported: write apiVersion: finetune.dev/v1alpha1 (got 'finetune.dev/v1')"],
    ),
    "rate of 0": (
        {"training.learningRate": 0},
        ["spec.training.learningRate: is too small: write a number above 0 (got 0)"],
    ),
    "warm-up of the whole run": (
        {"training.schedule.warmupRatio": 1},
        ["spec.training.schedule.warmupRatio: is too large: write a number below 1 (got 1)"],
    ),
    "beta of 1": (
        {"training.optimizer.betas": [0.9, 1.0]},
        ["spec.training.optimizer.betas[1]: is too large: write a number below 1 (got 1.0)"],
    ),
    "one beta": (
        {"training.optimizer.betas": [0.9]},
        ["spec.training.optimizer.betas: has 1 entries: write at least 2 (got 'a list')"],
    ),
    "negative seed": ({"training.seed": -1}, ["spec.training.seed: is too small: write 0 or more (got -1)"]),
    "seed above 32 bits": (
        {"training.seed": 2**32},
        ["spec.training.seed: is too large: write 4294967295 or less (got 4294967296)"],
    ),
    "ratio above 1": (
        {"data.badRecords.maxRatio": 1.5},
        ["spec.data.badRecords.maxRatio: is too large: write 1 or less (got 1.5)"],
    ),
    "weight of 0": (
        {"data.train.0.weight": 0},
        ["spec.data.train[0].weight: is too small: write a number above 0 (got 0)"],
    ),
    "17 columns": (
        {"data.train.0.columns": {f"c{number}": "x" for number in range(17)}},
        ["spec.data.train[0].columns: has 17 entries: write at most 16 (got 'a mapping')"],
    ),
    "no training data": ({"data.train": []}, ["spec.data.train: has 0 entries: write at least 1 (got 'a list')"]),
    "stage 4": ({"deepspeed.zeroStage": 4}, ["spec.deepspeed.zeroStage: is too large: write 3 or less (got 4)"]),
    "long job name": (
        {"/metadata/name": "a" * 37},
        [f"metadata.name: is too long: write at most 36 characters (got '{'a' * 37}')"],
    ),
    "job name with capitals": (
        {"/metadata/name": "Support_Bot"},
        [
            "metadata.name: is no valid name: write lower-case letters, digits and dashes, a letter first and no dash "
            "last (got 'Support_Bot')"
        ],
    ),
    "job name that begins with a digit": (
        {"/metadata/name": "8b-bot"},
        [
            "metadata.name: is no valid name: write lower-case letters, digits and dashes, a letter first and no dash "
            "last (got '8b-bot')"
        ],
    ),
    "memory in GB": (
        {"workers.resources.memory": "64GB"},
        [
            'spec.workers.resources.memory: is no amount of memory: write "64Gi" (units are Ki, Mi, Gi, Ti) '
            "(got '64GB')"
        ],
    ),
    "CPU with a word": (
        {"workers.resources.cpu": "4 cores"},
        [
            'spec.workers.resources.cpu: is no amount of CPU: write "4" for 4 cores, or "500m" for half a core '
            "(got '4 cores')"
        ],
    ),
    "credentials in an address are not shown": (
        {"data.train.0.uri": "s3://AKIA:secret@data/x.jsonl"},
        [
            "spec.data.train[0].uri: holds credentials: write s3://<bucket>/<key> and give the keys through the "
            "environment, an AWS profile or spec.storage.secretRef (got 's3://***@data/x.jsonl')"
        ],
    ),
}


@pytest.mark.parametrize("case", FIELD_MISTAKES)
def test_a_wrong_field_says_what_to_write(problems: Problems, case: str) -> None:
    edits, expected = FIELD_MISTAKES[case]
    assert problems(edits) == expected
