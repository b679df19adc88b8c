"""Random rows with targets, and a one-process float32 reference of what a model with a score head learns from them."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid, mse_loss

from finetune_trainer.data import LabelSet, Row
from finetune_trainer.model.score import ScoreHead
from finetune_trainer.spec import ProblemType
from made_rows import row_of
from reference import LEARNING_RATE, Step, split_documents
from tiny_models import VOCABULARY

CENTER = 0.01
NAMES = ("ham", "spam", "unsure")
WEIGHTS = (1.0, 0.25, 3.0)
REWARD = "Reward"
PAD = 0
HEADS = {
    REWARD: ScoreHead(("reward",), "regression", PAD, seed=1),
    "SingleLabel": ScoreHead(NAMES, "single_label_classification", PAD, seed=1),
    "MultiLabel": ScoreHead(NAMES, "multi_label_classification", PAD, seed=1),
    "Regression": ScoreHead(("number",), "regression", PAD, seed=1),
}


def labels_of(kind: str) -> LabelSet:
    """The labels of a classifier, with weights that differ."""
    problem = ProblemType(kind)
    return LabelSet(problem) if problem is ProblemType.REGRESSION else LabelSet(problem, NAMES, (), WEIGHTS)


def scored_steps(kind: str, seed: int, steps: int, rows: int) -> list[list[Row]]:
    """`steps` global batches of `rows` packed rows of 1 to 3 documents, or 1 to 2 pairs of them."""
    generator = np.random.default_rng(seed)
    return [[_row(kind, generator) for _ in range(rows)] for _ in range(steps)]


def _row(kind: str, generator: np.random.Generator) -> Row:
    units = int(generator.integers(1, 3 if kind == REWARD else 4))
    targets = np.concatenate([_targets(kind, generator) for _ in range(units)])
    lengths = [int(generator.integers(1, 17)) for _ in targets]
    ids = generator.integers(PAD + 1, VOCABULARY, sum(lengths)).astype(np.int32)
    positions = np.concatenate([np.arange(length) for length in lengths]).astype(np.int32)
    return row_of(ids, ids.copy(), positions, tuple(f"made up#{n}" for n in range(len(lengths))), targets=targets)


def _targets(kind: str, generator: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float32]]:
    """float32 [documents, n] of one document, or of a pair, of which one in three has no margin."""
    if kind == REWARD:
        margin = generator.normal() if generator.random() < 2 / 3 else math.nan
        return np.full((2, 1), margin, dtype=np.float32)
    if kind == "MultiLabel":
        return (generator.random((1, len(NAMES))) < 0.5).astype(np.float32)
    value = generator.normal() if kind == "Regression" else generator.integers(len(NAMES))
    return np.array([[value]], dtype=np.float32)


def head_reference_run(model: torch.nn.Module, kind: str, steps: list[list[Row]]) -> list[Step]:
    """Loss and gradient norm per step of plain PyTorch in one process: every document alone, pooled by transformers."""
    model = copy.deepcopy(model).train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    results = []
    for rows in steps:
        loss = batch_loss(model, kind, rows)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        results.append((loss.item(), norm.item()))
    return results


def batch_loss(model: torch.nn.Module, kind: str, rows: list[Row]) -> torch.Tensor:
    """The mean loss of all documents in `rows`, as torch and TRL define it for one batch."""
    documents = [document for row in rows for document in split_documents(row)]
    scores = torch.cat([model(input_ids=ids[None], use_cache=False).logits for ids, _ in documents])
    targets = torch.from_numpy(np.concatenate([row.targets for row in rows if row.targets is not None]))
    if kind == "SingleLabel":
        return cross_entropy(scores, targets[:, 0].long(), torch.tensor(WEIGHTS))
    if kind == "MultiLabel":
        return binary_cross_entropy_with_logits(scores, targets, pos_weight=torch.tensor(WEIGHTS))
    if kind == "Regression":
        return mse_loss(scores[:, 0], targets[:, 0])
    chosen, rejected = scores[0::2, 0], scores[1::2, 0]
    loss = -logsigmoid(chosen - rejected - targets[::2, 0].nan_to_num()).mean()
    return loss + CENTER * torch.mean((chosen + rejected) ** 2)
