"""Which changes make another run, and which may be made to a run that goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from finetune_trainer.spec import identity, identity_fields, parse_job

Manifest = Callable[[dict[str, Any]], str]

OTHER_RUN: dict[str, dict[str, Any]] = {
    "spec.model.uri": {"model.uri": "s3://models/other"},
    "spec.model.chatTemplate": {"model.chatTemplate": None},
    "spec.model.checkpoint.uri": {"model.checkpoint.uri": "s3://ckpt/support-bot/team-a.other"},
    "spec.model.checkpoint.which": {"model.checkpoint.which": "step:600"},
    "spec.method.lora.rank": {"method.lora.rank": 9},
    "spec.method.lora.alpha": {"method.lora.alpha": 17},
    "spec.method.lora.dropout": {"method.lora.dropout": 0.2},
    "spec.method.lora.targetModules[0]": {"method.lora.targetModules": ["k_proj"]},
    "spec.method.lora.perModule[0].modules[0]": {"method.lora.perModule.0.modules": ["layers.1.self_attn.q_proj"]},
    "spec.method.lora.perModule[0].rank": {"method.lora.perModule.0.rank": 2},
    "spec.method.lora.perModule[0].alpha": {"method.lora.perModule.0.alpha": 2},
    "spec.method.lora.dora": {"method.lora.dora": False},
    "spec.method.lora.rslora": {"method.lora.rslora": False},
    "spec.method.lora.learningRateRatio": {"method.lora.learningRateRatio": 4.0},
    "spec.method.lora.modulesToSave[0]": {"method.lora.modulesToSave": ["norm"]},
    "spec.data.train[0].uri": {"data.train.0.uri": "s3://data/other.jsonl"},
    "spec.data.train[0].format": {"data.train.0.format": "ShareGPT"},
    "spec.data.train[1].columns.output": {"data.train.1.columns": {"output": "reply"}},
    "spec.data.train[0].weight": {"data.train.0.weight": 0.5},
    "spec.data.maxLength": {"data.maxLength": 2048},
    "spec.data.overlong": {"data.overlong": "Split"},
    "spec.data.packing": {"data.packing": "BestFit"},
    "spec.training.epochs": {"training.epochs": 3},
    "spec.training.globalBatchSize": {"training.globalBatchSize": 64},
    "spec.training.learningRate": {"training.learningRate": 1e-4},
    "spec.training.schedule.type": {"training.schedule.type": "Linear"},
    "spec.training.schedule.warmupRatio": {"training.schedule.warmupRatio": 0.1},
    "spec.training.optimizer.weightDecay": {"training.optimizer.weightDecay": 0.0},
    "spec.training.optimizer.betas[1]": {"training.optimizer.betas": [0.9, 0.95]},
    "spec.training.optimizer.eps": {"training.optimizer.eps": 1e-8},
    "spec.training.maxGradNorm": {"training.maxGradNorm": 1.0},
    "spec.training.precision": {"training.precision": "BF16"},
    "spec.training.seed": {"training.seed": 8},
}

SAME_RUN: dict[str, dict[str, Any]] = {
    "micro-batch": {"training.microBatchSize": 4},
    "gradient checkpointing": {"training.gradientCheckpointing": "Off"},
    "budgets": {"training.maxSkippedSteps": 9, "data.badRecords.maxRatio": 0.5},
    "world size": {"workers.replicas": 1, "workers.gpusPerReplica": 1},
    "sharding": {"deepspeed": {"zeroStage": 0}},
    "evaluation": {"data.eval.0.uri": "s3://data/e.jsonl", "evaluation.everySteps": 5, "evaluation.compareBase": False},
    "checkpoints": {"checkpoint.everySteps": 5, "checkpoint.keepLast": 9, "checkpoint.uri": "s3://ckpt/b"},
    "output": {"output": {"uri": "s3://models/b", "format": "Adapter"}},
    "cluster": {"queueName": None, "priorityClassName": None, "suspend": True, "failurePolicy.maxAttempts": 9},
    "name": {"/metadata/name": "other", "/metadata/labels": None},
}


def changed_fields(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


@pytest.mark.parametrize("path", OTHER_RUN)
def test_a_change_of_the_updates_is_another_run_and_is_named(manifest: Manifest, path: str) -> None:
    before, after = parse_job(manifest({})), parse_job(manifest(OTHER_RUN[path]))
    assert identity(before) != identity(after)
    assert changed_fields(identity_fields(before), identity_fields(after)) == {path}


@pytest.mark.parametrize("case", SAME_RUN)
def test_a_change_of_where_and_how_fast_is_the_same_run(manifest: Manifest, case: str) -> None:
    assert identity(parse_job(manifest(SAME_RUN[case]))) == identity(parse_job(manifest({})))


def test_every_identity_field_of_a_full_manifest_is_covered_by_a_case(manifest: Manifest) -> None:
    fields = set(identity_fields(parse_job(manifest({}))))
    same_kind = {
        "spec.method.type",
        "spec.objective.type",
        "spec.training.optimizer.type",
    }  # one value, or other fields
    same_kind |= {path for path in fields if path.startswith("spec.data.train[1]") or path.endswith("betas[0]")}
    assert fields - same_kind == set(OTHER_RUN) - {"spec.data.train[1].columns.output"}


def test_steps_instead_of_epochs_is_another_run(manifest: Manifest) -> None:
    before, after = (parse_job(manifest(edits)) for edits in ({}, {"training.epochs": None, "training.maxSteps": 2}))
    changed = changed_fields(identity_fields(before), identity_fields(after))
    assert changed == {"spec.training.epochs", "spec.training.maxSteps"}


def test_the_way_a_number_or_a_default_is_written_does_not_matter(manifest: Manifest) -> None:
    written = manifest({"data.train.0.weight": 1, "method.lora": {"rank": 16}, "training.learningRate": 0.0002})
    left_out = manifest({"data.train.0.weight": None, "method.lora": None, "training.learningRate": 2e-4})
    assert identity(parse_job(written)) == identity(parse_job(left_out))


def test_an_upgrade_keeps_the_identity_of_a_running_job(manifest: Manifest) -> None:
    # A new field enters the identity only when its value is not the one that runs had before it existed.
    later = ("perModule", "dora", "rslora", "learningRateRatio", "modulesToSave")
    left_out = {"model.checkpoint": None} | {f"method.lora.{name}": None for name in later}
    assert identity(parse_job(manifest(left_out))) == "81620956542cf90fa9d21a2a46ab930d2bdccdd08eb3ddf2c34a6f50080267ce"
