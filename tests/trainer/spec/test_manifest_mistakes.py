"""Every mistake a manifest can show, with the exact place, value and advice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from finetune_trainer.errors import SpecError
from finetune_trainer.spec import parse_job

Manifest = Callable[[dict[str, Any]], str]

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
        ["spec.method.type: is none of the allowed values: write LoRA (allowed: Full, LoRA) (got 'Lora')"],
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

RULE_MISTAKES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "neither epochs nor steps": (
        {"training.epochs": None},
        ["spec.training.epochs: is required unless maxSteps is given: write for instance epochs: 1 (got nothing)"],
    ),
    "epochs and steps": (
        {"training.maxSteps": 10},
        ["spec.training.maxSteps: cannot stand beside epochs: keep one of the two (got 10)"],
    ),
    "batch smaller than the ranks": (
        {"training.globalBatchSize": 14},
        [
            "spec.training.globalBatchSize: is smaller than the number of ranks, 16 (replicas x max(1, "
            "gpusPerReplica)): write 16 or more, or fewer replicas or GPUs in spec.workers (got 14)"
        ],
    ),
    "batch that is no multiple": (
        {"training.globalBatchSize": 129},
        [
            "spec.training.globalBatchSize: is no multiple of microBatchSize, 2: write 128 or 130, or leave "
            "microBatchSize out (got 129)"
        ],
    ),
    "micro-batch above the batch": (
        {"training.globalBatchSize": 16, "training.microBatchSize": 32},
        [
            "spec.training.globalBatchSize: is no multiple of microBatchSize, 32: write 32, or leave microBatchSize "
            "out (got 16)"
        ],
    ),
    "LoRA options without LoRA": (
        {"method.type": "Full", "output.format": None},
        ["spec.method.lora: has no effect with type: Full: remove it, or write type: LoRA (got 'a mapping')"],
    ),
    "adapter of a full fine-tuning": (
        {"method": {"type": "Full"}, "output.format": "Adapter"},
        ["spec.output.format: does not come out of method Full: write Full, or leave it out (got 'Adapter')"],
    ),
    "full model out of LoRA": (
        {"output.format": "Full"},
        ["spec.output.format: does not come out of method LoRA: write Adapter or Merged, or leave it out (got 'Full')"],
    ),
    "all linear layers and one more": (
        {"method.lora.targetModules": ["all-linear", "lm_head"]},
        [
            "spec.method.lora.targetModules: all-linear names every linear layer already: write it alone, or remove "
            "it (got ['all-linear', 'lm_head'])"
        ],
    ),
    "conversations for CPT": (
        {"objective.type": "CPT", "data.train.1": {"uri": "s3://data/a.jsonl"}},
        ["spec.data.train[0].format: does not suit objective CPT: write Auto or Text (got 'Messages')"],
    ),
    "bare text for SFT": (
        {"data.eval.0.format": "Text"},
        [
            "spec.data.eval[0].format: does not suit objective SFT: write Auto, Messages, ShareGPT, Alpaca or "
            "PromptCompletion (got 'Text')"
        ],
    ),
    "column that the format lacks": (
        {"data.train.0.columns": {"prompt": "question"}},
        [
            "spec.data.train[0].columns.prompt: is no column of format Messages: write messages or tools before the "
            "colon (got 'question')"
        ],
    ),
    "two held-out sets of one name": (
        {"data.eval": [{"name": "a", "uri": "s3://data/a.jsonl"}, {"name": "a", "uri": "s3://data/b.jsonl"}]},
        ["spec.data.eval[1].name: is the name of an earlier set too: write another name (got 'a')"],
    ),
    "evaluation without data": (
        {"data.eval": None},
        [
            "spec.evaluation.everySteps: needs held-out data: add spec.data.eval, or remove this (got 200)",
            "spec.evaluation.compareBase: needs held-out data: add spec.data.eval, or remove this (got True)",
            "spec.evaluation.earlyStopping: needs held-out data: add spec.data.eval, or remove this (got 'a mapping')",
            "spec.checkpoint.keepBest: needs held-out data: add spec.data.eval, or remove this (got 2)",
        ],
    ),
    "choosing without evaluations": (
        {"evaluation.everySteps": None},
        [
            "spec.evaluation.earlyStopping: needs evaluations during the run: add spec.evaluation.everySteps "
            "(got 'a mapping')",
            "spec.checkpoint.keepBest: needs evaluations during the run: add spec.evaluation.everySteps (got 2)",
        ],
    ),
    "no checkpoint ever": (
        {"checkpoint.everySteps": None, "checkpoint.everySeconds": None},
        [
            "spec.checkpoint.everySteps: is required unless everySeconds is given: write for instance everySteps: 200 "
            "or everySeconds: 1800 (got nothing)"
        ],
    ),
    "offload without sharding": (
        {"deepspeed": {"zeroStage": 0, "offloadOptimizer": "CPU"}},
        [
            "spec.deepspeed.offloadOptimizer: needs zeroStage 1, 2 or 3: raise spec.deepspeed.zeroStage, or write None "
            "(got 'CPU')"
        ],
    ),
    "offloaded weights without stage 3": (
        {"deepspeed": {"zeroStage": 2, "offloadParameters": "CPU"}},
        [
            "spec.deepspeed.offloadParameters: needs zeroStage: 3: raise spec.deepspeed.zeroStage, or write None "
            "(got 'CPU')"
        ],
    ),
    "output onto the checkpoints": (
        {"output.uri": "s3://ckpt/support-bot/"},
        ["spec.output.uri: is spec.checkpoint.uri as well: write another folder (got 's3://ckpt/support-bot/')"],
    ),
    "output among the checkpoints": (
        {"output.uri": "s3://ckpt/support-bot/team-a.support-bot/out"},
        [
            "spec.output.uri: lies among this run's checkpoints: write a folder outside "
            "(got 's3://ckpt/support-bot/team-a.support-bot/out')"
        ],
    ),
    "output onto the model": (
        {"output.uri": "s3://models/llama-3.1-8b"},
        [
            "spec.output.uri: is the model that training starts from: write another folder "
            "(got 's3://models/llama-3.1-8b')"
        ],
    ),
    "two budgets for a reason": (
        {
            "failurePolicy.rules": [
                {"reasons": ["Preempted"], "maxRetries": 1},
                {"reasons": ["Hang", "Preempted"], "maxRetries": 2},
            ]
        },
        [
            "spec.failurePolicy.rules[1].reasons[1]: has a budget already: remove one of the two (got 'Preempted')",
        ],
    ),
}

NOT_YET: dict[str, tuple[dict[str, Any], list[str]]] = {
    "QLoRA": (
        {"method.type": "QLoRA"},
        ["spec.method.type: is not available yet: write Full or LoRA (got 'QLoRA')"],
    ),
    **{
        name: (
            {"objective.type": name},
            [f"spec.objective.type: is not available yet: write CPT or SFT (got '{name}')"],
        )
        for name in ("DPO", "ORPO", "KTO", "Reward", "Classification", "GRPO")
    },
    **{
        f"options of {name}": (
            {f"objective.{name}": {"beta": 0.2}},
            [f"spec.objective.{name}: is not available yet: remove it (got 'a mapping')"],
        )
        for name in ("dpo", "orpo", "kto", "reward", "classification", "grpo")
    },
    **{
        name: (
            {"data.train.0.format": name},
            [
                "spec.data.train[0].format: is not available yet: write Auto, Messages, ShareGPT, Alpaca, "
                f"PromptCompletion or Text (got '{name}')"
            ],
        )
        for name in ("Preference", "UnpairedPreference")
    },
    "NVMe": (
        {"deepspeed.offloadOptimizer": "NVMe"},
        ["spec.deepspeed.offloadOptimizer: is not available yet: write None or CPU (got 'NVMe')"],
    ),
    "elasticity": (
        {"workers.minReplicas": 1},
        ["spec.workers.minReplicas: is not available yet: remove it (got 1)"],
    ),
}


def problems_of(text: str) -> list[str]:
    with pytest.raises(SpecError) as refusal:
        parse_job(text)
    return [str(problem) for problem in refusal.value.problems]


def test_the_unedited_manifest_is_accepted(manifest: Manifest) -> None:
    assert parse_job(manifest({})).metadata.name == "support-bot"


@pytest.mark.parametrize("case", FIELD_MISTAKES)
def test_a_wrong_field_says_what_to_write(manifest: Manifest, case: str) -> None:
    edits, expected = FIELD_MISTAKES[case]
    assert problems_of(manifest(edits)) == expected


@pytest.mark.parametrize("case", RULE_MISTAKES)
def test_fields_that_contradict_each_other_say_what_to_write(manifest: Manifest, case: str) -> None:
    edits, expected = RULE_MISTAKES[case]
    assert problems_of(manifest(edits)) == expected


@pytest.mark.parametrize("case", NOT_YET)
def test_what_is_not_there_yet_says_what_works_today(manifest: Manifest, case: str) -> None:
    edits, expected = NOT_YET[case]
    assert problems_of(manifest(edits)) == expected


def test_all_mistakes_are_named_at_once(manifest: Manifest) -> None:
    edits = {
        "model.uri": "llama",
        "data.train.1": {"uri": "s3://data/a.jsonl", "format": "Text"},
        "training.learningRate": "fast",
        "training.globalBatchSize": 3,
        "checkpoint.keeplast": 1,
        "deepspeed.overrides": {"elasticity.enabled": True, "bf16.enabled": False},
        "workers.resources.memory": "512GB",
        "/metadata/name": "Bot",
    }
    assert [line.partition(":")[0] for line in problems_of(manifest(edits))] == [
        "metadata.name",
        "spec.model.uri",
        "spec.training.learningRate",
        'spec.deepspeed.overrides["elasticity.enabled"]',
        'spec.deepspeed.overrides["bf16.enabled"]',
        "spec.checkpoint.keeplast",
        "spec.workers.resources.memory",
        "spec.training.globalBatchSize",
        "spec.training.globalBatchSize",
        "spec.data.train[1].format",
    ]


def test_a_rule_stays_silent_about_a_field_that_is_broken_anyway(manifest: Manifest) -> None:
    edits = {"training.epochs": None, "training.maxStep": 10}
    assert problems_of(manifest(edits)) == ["spec.training.maxStep: is no field here: write maxSteps (got 10)"]


def test_a_broken_source_hides_no_finding_on_another_source(manifest: Manifest) -> None:
    edits = {"data.train.0.format": "Chat", "data.train.1": {"uri": "s3://data/a.jsonl", "format": "Text"}}
    found = [line.partition(":")[0] for line in problems_of(manifest(edits))]
    assert found == ["spec.data.train[0].format", "spec.data.train[1].format"]


def test_a_replaced_part_brings_no_finding_of_its_own(manifest: Manifest) -> None:
    edits = {"data.eval": [5, {"name": "support", "uri": "s3://data/a.jsonl"}]}
    found = [line.partition(":")[0] for line in problems_of(manifest(edits))]
    assert found == ["spec.data.eval[0]"]


@pytest.mark.parametrize("text", ["", "[]", "text", "3", "null"])
def test_a_document_that_is_no_mapping_is_refused(text: str) -> None:
    assert problems_of(text)[0].startswith("manifest: is no mapping: write apiVersion, kind, metadata and spec")


def test_an_empty_mapping_asks_for_the_envelope() -> None:
    assert [line.partition(":")[0] for line in problems_of("{}")] == ["apiVersion", "kind", "metadata", "spec"]


def test_long_values_are_shown_in_part(manifest: Manifest) -> None:
    (line,) = problems_of(manifest({"queueName": "Q" * 500}))
    assert line.endswith(f"(got '{'Q' * 120}...')")
