"""One manifest that gives every field a sensible value: what messages show, and what stands in for a broken part."""

from __future__ import annotations

import json
import re
from typing import Any

from finetune_trainer.spec.fields import entries

EXAMPLE: dict[str, Any] = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "FineTuneJob",
    "metadata": {
        "name": "support-bot",
        "namespace": "team-a",
        "uid": "5f0f9a3e-6e0b-4a57-9c1e-2f1f0c5b7a11",
        "labels": {"team": "support"},
        "annotations": {"owner": "support@example.com"},
    },
    "spec": {
        "model": {
            "uri": "hf://Qwen/Qwen3-0.6B@main",
            "chatTemplate": "{% for message in messages %}...{% endfor %}",
            "checkpoint": {"uri": "s3://checkpoints/team-a/default.first-job", "which": "best"},
            "adapter": {"uri": "s3://models/support-bot-stage-1", "use": "Continue"},
            "addedTokens": ["<tool_call>"],
        },
        "method": {
            "type": "LoRA",
            "lora": {
                "rank": 16,
                "alpha": 32,
                "dropout": 0.0,
                "targetModules": ["all-linear"],
                "perModule": [{"modules": ["down_proj"], "rank": 64, "alpha": 128}],
                "dora": False,
                "rslora": False,
                "initialization": "Default",
                "learningRateRatio": 16.0,
                "modulesToSave": ["lm_head"],
            },
            "qlora": {"quantType": "NF4", "doubleQuantization": True},
            "full": {"train": ["*"], "freeze": ["embed_tokens"]},
        },
        "objective": {
            "type": "SFT",
            "sft": {
                "train": "Answers",
                "roleWeights": {"assistant": 1.0, "user": 0.1, "system": 0.0, "tool": 0.0},
            },
            "dpo": {"beta": 0.1, "loss": "Sigmoid", "labelSmoothing": 0.0, "reference": "Base"},
            "orpo": {"beta": 0.1},
            "kto": {"beta": 0.1, "desirableWeight": 1.0, "undesirableWeight": 1.0, "reference": "Base"},
            "reward": {"centerCoefficient": 0.01},
            "classification": {
                "problem": "SingleLabel",
                "labels": ["ham", "spam"],
                "classWeights": {"spam": 5.0},
                "balanceClasses": False,
            },
        },
        "data": {
            "train": [
                {"uri": "s3://data/support/*.jsonl.zst", "format": "Messages", "columns": {}, "weight": 1.0},
            ],
            "eval": [
                {
                    "uri": "s3://data/support-eval/*.parquet",
                    "format": "Messages",
                    "columns": {},
                    "name": "support",
                    "metrics": [
                        {"type": "ExactMatch", "fields": ["total"], "choices": ["yes", "no"], "pattern": "Answer: (.*)"}
                    ],
                },
            ],
            "contamination": "Warn",
            "maxLength": 4096,
            "overlong": "Truncate",
            "packing": "BestFit",
            "badRecords": {"maxRatio": 0.001},
        },
        "training": {
            "epochs": 2,
            "maxSteps": 1000,
            "globalBatchSize": 128,
            "microBatchSize": 2,
            "learningRate": 2.0e-4,
            "schedule": {"type": "Cosine", "warmupRatio": 0.03},
            "optimizer": {"type": "AdamW", "weightDecay": 0.0, "betas": [0.9, 0.95], "eps": 1.0e-8},
            "maxGradNorm": 1.0,
            "precision": "BF16",
            "gradientCheckpointing": "Auto",
            "maxSkippedSteps": 0,
            "seed": 0,
        },
        "deepspeed": {
            "zeroStage": 2,
            "offloadOptimizer": "CPU",
            "offloadParameters": "None",
            "overrides": {"zero_optimization.reduce_bucket_size": 500_000_000},
        },
        "checkpoint": {
            "uri": "s3://checkpoints/team-a",
            "everySteps": 200,
            "everySeconds": 1800,
            "keepLast": 2,
            "keepBest": 1,
        },
        "evaluation": {
            "everySteps": 200,
            "compareBase": True,
            "earlyStopping": {"patience": 3},
            "samples": 128,
            "shots": 4,
            "maxNewTokens": 256,
            "forgetting": {"sample": True, "sets": ["general"]},
        },
        "output": {"uri": "s3://models/support-bot", "format": "Adapter"},
        "workers": {
            "replicas": 2,
            "minReplicas": 1,
            "gpusPerReplica": 8,
            "resources": {"cpu": "64", "memory": "512Gi"},
        },
        "storage": {"secretRef": {"name": "team-a-s3"}},
        "hub": {"tokenSecretRef": {"name": "hub-token", "key": "token"}},
        "serviceAccountName": "trainer",
        "runtimeRef": {"name": "default"},
        "queueName": "team-a",
        "priorityClassName": "high",
        "failurePolicy": {
            "maxAttempts": 3,
            "maxRestarts": 5,
            "rules": [{"reasons": ["Preempted"], "maxRetries": 20}],
        },
        "startDeadlineSeconds": 3600,
        "activeDeadlineSeconds": 259_200,
        "noProgressDeadlineSeconds": 1800,
        "terminationGracePeriodSeconds": 300,
        "ttlSecondsAfterFinished": 604_800,
        "suspend": False,
    },
}

MINIMAL = """
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata: {name: support-bot}
spec:
  model: {uri: "hf://Qwen/Qwen3-0.6B@main"}
  method: {type: LoRA}
  objective: {type: SFT}
  data:
    train: [{uri: "s3://data/support/*.jsonl.zst"}]
    maxLength: 4096
  training: {epochs: 1, globalBatchSize: 16, learningRate: 2e-4}
  checkpoint: {uri: "s3://checkpoints/team-a", everySteps: 200}
  output: {uri: "s3://models/support-bot"}
  workers: {gpusPerReplica: 1}
"""

NOTHING = object()


def example_at(path: str) -> Any:
    """The example's value at `path` (any index stands for the first element); `NOTHING` where it has none."""
    value: Any = EXAMPLE
    for name in re.findall(r"[^.\[\]]+|\[\d*\]", path):
        if name.startswith("["):
            value = value[0] if isinstance(value, list) and value else NOTHING
        else:
            value = value.get(name, NOTHING) if isinstance(value, dict) else NOTHING
    return value


def shown_example(path: str) -> str:
    """The example's value at the generic `path` as a line of YAML, objects with their required members only."""
    name = path.rpartition(".")[2].removesuffix("[]")
    return f"{name}: {_flow(_required_only(path, example_at(path)))}"


def _required_only(path: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_required_only(f"{path}[]", item) for item in value]
    if not isinstance(value, dict):
        return value
    members = {name: entries().get(f"{path}.{name}") for name in value}
    needed = [name for name, entry in members.items() if entry is None or entry.required] or list(value)[:1]
    return {name: _required_only(f"{path}.{name}", value[name]) for name in needed}


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_flow(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", value)
    return str(value) if plain else json.dumps(value)
