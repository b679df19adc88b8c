"""Random rows, a one-process float32 reference for them, and a manifest around both: what the engine tests share."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from finetune_trainer.data import Row
from finetune_trainer.spec import FineTuneJob, parse_job
from made_rows import row_of
from tiny_models import VOCABULARY

LEARNING_RATE = 5e-3
Step = tuple[float, float]  # loss, gradient norm


def random_steps(seed: int, steps: int, rows: int) -> list[list[Row]]:
    """`steps` global batches of `rows` packed rows: 1 to 3 documents of ragged length, prompts masked."""
    generator = np.random.default_rng(seed)
    return [[_random_row(generator) for _ in range(rows)] for _ in range(steps)]


def _random_row(generator: np.random.Generator) -> Row:
    lengths = [int(generator.integers(3, 17)) for _ in range(generator.integers(1, 4))]
    ids = generator.integers(0, VOCABULARY, sum(lengths)).astype(np.int32)
    labels = ids.copy()
    positions = np.concatenate([np.arange(length) for length in lengths]).astype(np.int32)
    for start, length in zip(np.cumsum([0, *lengths[:-1]]), lengths, strict=True):
        labels[start : start + int(generator.integers(1, max(2, length - 1)))] = -100
    return row_of(ids, labels, positions, records=("made up",))


def job(
    zero_stage: int,
    method: str | Mapping[str, Any],
    dropout: float = 0.0,
    *,
    deepspeed: Mapping[str, Any] | None = None,
    **training: Any,
) -> FineTuneJob:
    """A manifest with the options that the engine reads; `deepspeed` and `training` are members of those blocks.

    `method` is a type, LoRA of rank 4, or the whole block.
    """
    options = {"globalBatchSize": 5, "microBatchSize": 1, "learningRate": LEARNING_RATE, "maxSteps": 4} | training
    lora = {"lora": {"rank": 4, "alpha": 8, "dropout": dropout}} if method == "LoRA" else {}
    block = {"type": method, **lora} if isinstance(method, str) else dict(method)
    lines = "\n".join(f"    {key}: {value}" for key, value in ({"precision": "FP32"} | options).items())
    return parse_job(f"""
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata: {{name: tiny}}
spec:
  model: {{uri: "file:///nowhere"}}
  method: {json.dumps(block)}
  objective: {{type: SFT}}
  data: {{train: [{{uri: "file:///nowhere/*.jsonl"}}], maxLength: 64}}
  training:
{lines}
  deepspeed: {json.dumps({"zeroStage": zero_stage} | dict(deepspeed or {}))}
  checkpoint: {{uri: "file:///nowhere/checkpoints", everySteps: 2}}
  output: {{uri: "file:///nowhere/output"}}
  workers: {{replicas: 2, gpusPerReplica: 0}}
""")


def adamw(model: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimizer of `job` over everything that is trained."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=LEARNING_RATE, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)


def reference_run(
    model: torch.nn.Module,
    steps: list[list[Row]],
    max_grad_norm: float = 1.0,
    optimizer_of: Callable[[torch.nn.Module], torch.optim.Optimizer] = adamw,
) -> list[Step]:
    """Loss and gradient norm per step of plain PyTorch in one process: every document alone, one sum, one division."""
    model = copy.deepcopy(model).train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = optimizer_of(model)
    results = []
    for rows in steps:
        documents = [document for row in rows for document in split_documents(row)]
        kept = sum(int((labels[1:] != -100).sum()) for _, labels in documents)
        loss = sum((_document_loss(model, ids, labels) for ids, labels in documents), torch.zeros(())) / kept
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm or math.inf)
        optimizer.step()
        results.append((loss.item(), norm.item()))
    return results


def split_documents(row: Row) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The row's documents as (ids, labels), cut where positions restart."""
    starts = [*np.flatnonzero(row.position_ids == 0), len(row.input_ids)]
    spans = [slice(start, end) for start, end in pairwise(starts)]
    return [(torch.from_numpy(row.input_ids[span]).long(), torch.from_numpy(row.labels[span]).long()) for span in spans]


def _document_loss(model: torch.nn.Module, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, labels[1:], ignore_index=-100, reduction="sum")
