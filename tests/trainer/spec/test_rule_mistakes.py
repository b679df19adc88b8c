"""Fields that contradict each other, each with the exact place, value and advice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Problems = Callable[[dict[str, Any]], list[str]]

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
    "fewer workers than the fewest": (
        {"workers.minReplicas": 5},
        ["spec.workers.minReplicas: is more than spec.workers.replicas, 2: write 2 or less, or leave it out (got 5)"],
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
    "options of QLoRA without it": (
        {"method.qlora": {"doubleQuantization": False}},
        ["spec.method.qlora: has no effect with type: LoRA: remove it, or write type: QLoRA (got 'a mapping')"],
    ),
    "options of full fine-tuning without it": (
        {"method.full": {"freeze": ["lm_head"]}},
        ["spec.method.full: has no effect with type: LoRA: remove it, or write type: Full (got 'a mapping')"],
    ),
    "another rank that is none": (
        {"method.lora.perModule": [{"modules": ["q_proj"]}]},
        [
            "spec.method.lora.perModule[0].rank: is required unless alpha is given: write for instance rank: 64 "
            "(got nothing)"
        ],
    ),
    "QLoRA with ZeRO-3": (
        {"method.type": "QLoRA"},
        ["spec.deepspeed.zeroStage: cannot take weights of 4 bits apart: write 2, or type: LoRA (got 3)"],
    ),
    "PiSSA with ZeRO-3": (
        {"method.lora.initialization": "PiSSA"},
        [
            "spec.method.lora.initialization: decomposes whole weights, which zeroStage 3 takes apart: write "
            "Default, or zeroStage: 2 (got 'PiSSA')"
        ],
    ),
    "OLoRA with QLoRA": (
        {"method.type": "QLoRA", "method.lora.initialization": "OLoRA", "deepspeed": {"zeroStage": 2}},
        [
            "spec.method.lora.initialization: takes a part out of the weights, which QLoRA holds in 4 bits: write "
            "Default, or type: LoRA (got 'OLoRA')"
        ],
    ),
    "PiSSA with DoRA": (
        {"method.lora.initialization": "PiSSA", "method.lora.dora": True, "deepspeed": {"zeroStage": 2}},
        [
            "spec.method.lora.initialization: cannot be exported for the model's own weights with dora: write "
            "Default, or dora: false (got 'PiSSA')"
        ],
    ),
    "PiSSA for an adapter that there is": (
        {
            "method.lora.initialization": "PiSSA",
            "method.lora.dora": False,
            "model.checkpoint": None,
            "model.adapter": {"uri": "s3://models/first", "use": "Continue"},
            "deepspeed": {"zeroStage": 2},
        },
        [
            "spec.method.lora.initialization: is for new adapters, and spec.model.adapter has values already: write "
            "Default (got 'PiSSA')"
        ],
    ),
    "added tokens with ZeRO-3": (
        {"model.addedTokens": ["<tool_call>"]},
        [
            "spec.model.addedTokens: need more rows in embeddings that zeroStage 3 takes apart: write zeroStage: 2 "
            "or less, or add them to the model's folder beforehand (got 'a list')"
        ],
    ),
    "an adapter and a checkpoint to start from": (
        {"model.adapter": {"uri": "s3://models/first"}},
        ["spec.model.adapter: cannot stand beside checkpoint: keep one of the two (got 'a mapping')"],
    ),
    "an adapter for full fine-tuning": (
        {
            "method": {"type": "Full"},
            "output.format": None,
            "model.checkpoint": None,
            "model.adapter": {"uri": "s3://models/first"},
        },
        [
            "spec.model.adapter.use: trains adapters, and type: Full trains none: write Merge, or type: LoRA (got "
            "'Continue')"
        ],
    ),
    "an adapter beside merged weights": (
        {
            "output.format": "Adapter",
            "model.checkpoint": None,
            "model.adapter": {"uri": "s3://models/first", "use": "Merge"},
        },
        [
            "spec.output.format: would fit merged weights only, which are stored nowhere: write Merged, or use: "
            "Continue for the adapter (got 'Adapter')"
        ],
    ),
    "full model out of QLoRA": (
        {"method.type": "QLoRA", "output.format": "Full", "deepspeed": {"zeroStage": 2}},
        [
            "spec.output.format: does not come out of method QLoRA: write Adapter or Merged, or leave it out (got "
            "'Full')"
        ],
    ),
    "conversations for CPT": (
        {"objective.type": "CPT", "data.eval.0.metrics": None, "data.train.1": {"uri": "s3://data/a.jsonl"}},
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


@pytest.mark.parametrize("case", RULE_MISTAKES)
def test_fields_that_contradict_each_other_say_what_to_write(problems: Problems, case: str) -> None:
    edits, expected = RULE_MISTAKES[case]
    assert problems(edits) == expected


def test_the_columns_of_a_format_are_those_that_the_reader_knows() -> None:
    from finetune_trainer.data.formats import OPTIONAL, REQUIRED
    from finetune_trainer.spec.rules import COLUMNS

    assert {name: tuple(columns) for name, columns in COLUMNS.items()} == {
        name: REQUIRED[name] + OPTIONAL[name] for name in REQUIRED
    }
