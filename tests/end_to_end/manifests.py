"""Jobs for the end-to-end tests: small, of two workers, and long enough for something to happen to them."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]
EVERY = 20
"""Steps between two commits that are due."""


def job(
    bucket: str, name: str = "tune", *, steps: int = 60, every: int = EVERY, replicas: int = 2, **spec: Any
) -> Object:
    """LoRA with ZeRO-2 on gloo; `spec` replaces members of the spec."""
    place = f"s3://{bucket}"
    base = {
        "model": {"uri": f"{place}/pretrained"},
        "method": {"type": "LoRA"},
        "objective": {"type": "SFT"},
        "data": {"train": [{"uri": f"{place}/data/chat/train-*.jsonl"}], "maxLength": 256},
        "training": {
            "maxSteps": steps,
            "globalBatchSize": 8,
            "learningRate": 2.0e-3,
            "schedule": {"type": "Constant", "warmupRatio": 0},  # each step is the same however many there are
            "precision": "FP32",
        },
        "deepspeed": {"zeroStage": 2},
        "checkpoint": {"uri": f"{place}/{name}/checkpoints", "everySteps": every},
        "output": {"uri": f"{place}/{name}/adapter"},
        "workers": {"replicas": replicas, "gpusPerReplica": 0},
        "storage": {"secretRef": {"name": "s3"}},
        "startDeadlineSeconds": 300,
        "noProgressDeadlineSeconds": 120,
        "terminationGracePeriodSeconds": 60,
    }
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name},
        "spec": {**base, **spec},
    }
