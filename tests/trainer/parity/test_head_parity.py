"""Losses and gradients of score heads on one batch, against TRL's RewardTrainer and transformers' own losses."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tiny_models
from finetune_trainer.data import LabelSet, Row
from finetune_trainer.engine.batch import Forward
from finetune_trainer.engine.loss import Objective
from finetune_trainer.model.load import load_model
from finetune_trainer.model.score import ScoreHead, ScorePositions
from finetune_trainer.objectives.classification import KINDS
from finetune_trainer.objectives.reward import BradleyTerry
from finetune_trainer.spec import ProblemType
from made_rows import row_of

CPU = torch.device("cpu")
NAMES = ("ham", "spam", "unsure")
LENGTHS = (9, 14, 3, 17, 6, 1)
IDS = [list(range(7 * n + 3, 7 * n + 3 + length)) for n, length in enumerate(LENGTHS)]


def loaded(folder: Path, names: tuple[str, ...], problem: str) -> Any:
    path = tiny_models.save("llama", folder)
    return load_model(path, dtype=torch.float32, head=ScoreHead(names, problem, pad_id=0, seed=5))


def row(documents: list[list[int]], targets: list[list[float]]) -> Row:
    ids = np.concatenate(documents).astype(np.int32)
    positions = np.concatenate([np.arange(len(one)) for one in documents]).astype(np.int32)
    records = tuple(f"made up#{n}" for n in range(len(documents)))
    return row_of(ids, ids, positions, records, targets=np.array(targets, dtype=np.float32))


def learnt(model: nn.Module, objective: Any, rows: list[Row]) -> tuple[Tensor, dict[str, Tensor]]:
    """The product's mean loss over rows and its gradients, in two micro-batches."""
    model = copy.deepcopy(model)
    head = objective(Forward(ScorePositions(model), CPU, 0))
    assert isinstance(head, Objective)
    total = torch.zeros(())
    for part in (rows[:1], rows[1:]):
        loss = head.loss(model, part, {}).total / head.weight(rows)
        torch.autograd.backward(loss)
        total = total + loss.detach()
    return total, gradients(model)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found: tuple[Tensor, dict[str, Tensor]], loss: Tensor, model: nn.Module) -> None:
    torch.autograd.backward(loss)
    torch.testing.assert_close(found[0], loss.detach(), rtol=1e-5, atol=0)
    expected = gradients(model)
    assert found[1].keys() == expected.keys()
    for name, gradient in expected.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=1e-5 * scale, msg=name)


@pytest.mark.parametrize("margins", [[0.5, -0.25, 2.0], None])
@pytest.mark.parametrize("center", [0.01, None])
def test_a_reward_models_loss_and_gradients_equal_trls(
    margins: list[float] | None, center: float | None, tmp_path: Path
) -> None:
    from datasets import Dataset
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    model = loaded(tmp_path / "model", ("reward",), "regression")
    pairs = [IDS[:2], IDS[2:4], IDS[4:]]
    records = [
        {"chosen_ids": chosen, "rejected_ids": rejected} | ({} if margins is None else {"margin": margins[n]})
        for n, (chosen, rejected) in enumerate(pairs)
    ]
    config = RewardConfig(
        output_dir=str(tmp_path / "trl"),
        center_rewards_coefficient=center,
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    )
    trainer: Any = RewardTrainer(
        model=copy.deepcopy(model),
        args=config,
        train_dataset=Dataset.from_list(records),
        processing_class=tokenizer(tmp_path / "tokenizer"),
    )
    batch = trainer.data_collator(records)
    targets = [float("nan")] * 3 if margins is None else margins
    rows = [row(list(pair), [[target]] * 2) for pair, target in zip(pairs, targets, strict=True)]
    found = learnt(model, lambda forward: BradleyTerry(forward, center or 0.0), rows)
    assert_same(found, trainer.compute_loss(trainer.model, batch), trainer.model)


def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_models.save_tokenizer(folder, pad_token="<pad>"))


CLASSIFIERS: dict[str, tuple[str, list[list[float]], torch.dtype]] = {
    "SingleLabel": ("single_label_classification", [[0], [2], [2], [1], [0], [1]], torch.int64),
    "MultiLabel": (
        "multi_label_classification",
        [[0, 1, 1], [0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]],
        torch.float32,
    ),
    "Regression": ("regression", [[0.5], [-1.5], [3.0], [0.0], [2.0], [-0.1]], torch.float32),
}


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_classifiers_loss_and_gradients_equal_those_of_transformers(kind: str, tmp_path: Path) -> None:
    problem, targets, dtype = CLASSIFIERS[kind]
    names = ("number",) if kind == "Regression" else NAMES
    model = loaded(tmp_path, names, problem)
    width = max(LENGTHS)
    padded = torch.tensor([ids + [0] * (width - len(ids)) for ids in IDS])
    labels = torch.tensor(targets).to(dtype)
    labels = labels if kind == "MultiLabel" else labels[:, 0]
    reference = copy.deepcopy(model)
    loss = reference(input_ids=padded, attention_mask=(padded != 0).long(), labels=labels, use_cache=False).loss
    known = LabelSet(ProblemType(kind), () if kind == "Regression" else NAMES, (), (1.0,) * len(NAMES))
    rows = [row(IDS[:3], targets[:3]), row(IDS[3:5], targets[3:5]), row(IDS[5:], targets[5:])]
    assert_same(learnt(model, lambda forward: KINDS[ProblemType(kind)](forward, known), rows), loss, reference)
