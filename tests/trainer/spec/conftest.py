"""A manifest that uses every field that works today, and a way to change it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from finetune_trainer.errors import SpecError
from finetune_trainer.spec import parse_job

Edits = dict[str, Any]

FULL: dict[str, Any] = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "FineTuneJob",
    "metadata": {"name": "support-bot", "namespace": "team-a", "labels": {"team": "support"}},
    "spec": {
        "model": {
            "uri": "s3://models/llama-3.1-8b",
            "chatTemplate": "{{ messages }}",
            "checkpoint": {"uri": "s3://ckpt/support-bot/team-a.first", "which": "best"},
        },
        "method": {
            "type": "LoRA",
            "lora": {
                "rank": 8,
                "alpha": 16,
                "dropout": 0.1,
                "targetModules": ["q_proj"],
                "perModule": [{"modules": ["layers.0.self_attn.q_proj"], "rank": 4, "alpha": 8}],
                "dora": True,
                "rslora": True,
                "learningRateRatio": 16.0,
                "modulesToSave": ["lm_head"],
            },
        },
        "objective": {"type": "SFT"},
        "data": {
            "train": [
                {"uri": "s3://data/support/*.jsonl.zst", "format": "Messages", "weight": 1.0},
                {"uri": "file://./more/*.parquet", "format": "Alpaca", "columns": {"output": "answer"}},
            ],
            "eval": [
                {
                    "name": "support",
                    "uri": "s3://data/support-eval/*.parquet",
                    "metrics": [
                        {"type": "JsonFields", "fields": ["total"]},
                        {"type": "Choice", "choices": ["yes", "no"]},
                        {"type": "Regex", "pattern": "Answer: (.*)"},
                    ],
                },
            ],
            "contamination": "Fail",
            "maxLength": 4096,
            "overlong": "Drop",
            "packing": "None",
            "badRecords": {"maxRatio": 0.01},
        },
        "training": {
            "epochs": 2,
            "globalBatchSize": 128,
            "microBatchSize": 2,
            "learningRate": 2.0e-4,
            "schedule": {"type": "WSD", "warmupRatio": 0.05},
            "optimizer": {"type": "AdamW", "weightDecay": 0.1, "betas": [0.9, 0.99], "eps": 1.0e-6},
            "maxGradNorm": 0.5,
            "precision": "FP32",
            "gradientCheckpointing": "On",
            "maxSkippedSteps": 1,
            "seed": 7,
        },
        "deepspeed": {
            "zeroStage": 3,
            "offloadOptimizer": "CPU",
            "offloadParameters": "CPU",
            "overrides": {"zero_optimization.reduce_bucket_size": "5e8"},
        },
        "checkpoint": {
            "uri": "s3://ckpt/support-bot",
            "everySteps": 200,
            "everySeconds": 900,
            "keepLast": 3,
            "keepBest": 2,
        },
        "evaluation": {
            "everySteps": 200,
            "compareBase": True,
            "earlyStopping": {"patience": 3},
            "samples": 64,
            "shots": 2,
            "maxNewTokens": 100,
            "forgetting": {"sample": False},
        },
        "output": {"uri": "s3://models/support-bot", "format": "Merged"},
        "workers": {"replicas": 2, "gpusPerReplica": 8, "resources": {"cpu": "64", "memory": "512Gi"}},
        "storage": {"secretRef": {"name": "team-a-s3"}},
        "hub": {"tokenSecretRef": {"name": "hub-token", "key": "token"}},
        "serviceAccountName": "trainer",
        "runtimeRef": {"name": "default"},
        "queueName": "team-a",
        "priorityClassName": "high",
        "failurePolicy": {"maxAttempts": 3, "maxRestarts": 5, "rules": [{"reasons": ["Preempted"], "maxRetries": 20}]},
        "startDeadlineSeconds": 3600,
        "activeDeadlineSeconds": 259200,
        "noProgressDeadlineSeconds": 1800,
        "terminationGracePeriodSeconds": 300,
        "ttlSecondsAfterFinished": 604800,
        "suspend": False,
    },
}


def edited(edits: Edits) -> dict[str, Any]:
    """FULL with the value at each dotted path replaced (below `spec` unless it begins with `/`); None leaves it out."""
    document = copy.deepcopy(FULL)
    for path, value in edits.items():
        names = path[1:].split("/") if path.startswith("/") else ["spec", *path.split(".")]
        place: Any = document
        for name in names[:-1]:
            place = place[int(name) if isinstance(place, list) else name]
        place[int(names[-1]) if isinstance(place, list) else names[-1]] = value
    return document


@pytest.fixture
def manifest() -> Callable[[Edits], str]:
    """The full manifest as text, with edits."""
    return lambda edits: json.dumps(edited(edits))


@pytest.fixture
def problems() -> Callable[[Edits], list[str]]:
    """What is wrong with the full manifest after edits, one line each."""
    return lambda edits: _problems_in(json.dumps(edited(edits)))


@pytest.fixture
def problems_in() -> Callable[[str], list[str]]:
    """What is wrong with a manifest given as text, one line each."""
    return _problems_in


def _problems_in(text: str) -> list[str]:
    with pytest.raises(SpecError) as refusal:
        parse_job(text)
    return [str(problem) for problem in refusal.value.problems]
