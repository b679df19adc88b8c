"""Losses by token and by document, weighted or not, are those of plain cross-entropy on each document alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tiny_models
from finetune_trainer.data import Row, documents_of
from finetune_trainer.engine.batch import Forward
from finetune_trainer.model.head import KeptPositions
from finetune_trainer.objectives.sft import CrossEntropy
from reference import random_steps


def rows_with_weights() -> list[Row]:
    generator = np.random.default_rng(3)
    (rows,) = random_steps(seed=2, steps=1, rows=4)
    return [replace(row, weights=generator.uniform(0, 2, len(row)).astype(np.float32)) for row in rows]


def plain_losses(model: Any, document: Row) -> torch.Tensor:
    """Of one document's kept tokens, in one line of its own."""
    ids, labels = (torch.from_numpy(values.astype(np.int64)) for values in (document.input_ids, document.labels))
    losses = F.cross_entropy(model(input_ids=ids[None], use_cache=False).logits[0, :-1], labels[1:], reduction="none")
    return losses[labels[1:] != -100]


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    return found


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("reuse", [False, True])
def test_weighted_loss_and_gradients_are_those_of_every_document_alone(alone: bool, reuse: bool) -> None:
    model: Any = tiny_models.build("llama")
    rows = rows_with_weights()
    documents = [document for row in rows for document in documents_of(row)]
    assert len(documents) > len(rows)
    expected = sum(
        ((plain_losses(model, one) * torch.from_numpy(one.kept_weights)).sum() for one in documents),
        torch.zeros(()),
    )
    torch.autograd.backward(expected)
    expected_gradients = gradients(model)
    objective = CrossEntropy(Forward(KeptPositions(model), torch.device("cpu"), 0, reuse_logits=reuse, alone=alone))
    loss = objective.loss(model, rows, {})
    torch.autograd.backward(loss.total)
    torch.testing.assert_close(loss.total, expected, rtol=1e-6, atol=0)
    for name, gradient in gradients(model).items():
        # The sums of gradients of size 1 to 10 are made in another order: a few units in the last place.
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-4, atol=1e-5, msg=name)
    weights = sum(float(one.weights[1:][one.labels[1:] != -100].sum()) for one in documents if one.weights is not None)
    assert objective.weight(rows) == pytest.approx(weights, rel=1e-6)


@pytest.mark.parametrize("alone", [False, True])
def test_sums_belong_to_their_documents(alone: bool) -> None:
    model: Any = tiny_models.build("llama")
    rows = rows_with_weights()
    kept = Forward(KeptPositions(model), torch.device("cpu"), 0, alone=alone).kept(model, rows)
    documents = [document for row in rows for document in documents_of(row)]
    expected = [float(plain_losses(model, one).sum()) for one in documents]
    assert kept.sums().tolist() == pytest.approx(expected, rel=1e-5)
    assert kept.lengths().tolist() == [one.kept_tokens for one in documents]


def test_no_rows_weigh_nothing_and_reach_every_parameter() -> None:
    model: Any = tiny_models.build("llama")
    kept = Forward(KeptPositions(model), torch.device("cpu"), 0).kept(model, [])
    assert (kept.count, kept.sums().tolist(), kept.lengths().tolist()) == (0, [], [])
    torch.autograd.backward(kept.sums().sum())
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())
