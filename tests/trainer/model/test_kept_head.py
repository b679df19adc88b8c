"""Logits only at kept positions give the same loss and the same gradients as all logits and a masked mean."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

import tiny_models
from finetune_trainer.model.cross_entropy import kept_loss_sum, token_losses
from finetune_trainer.model.head import KeptPositions, kept_positions


def _batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, tiny_models.VOCABULARY, (2, 17), generator=generator)
    labels = torch.where(torch.rand(ids.shape, generator=generator) < 0.4, ids, -100)
    return ids, labels


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def _reference_loss(model: nn.Module, ids: Tensor, labels: Tensor) -> Tensor:
    logits = model(input_ids=ids, use_cache=False).logits
    return F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), reduction="sum")


def _assert_same_loss_and_gradients(model: nn.Module) -> None:
    ids, labels = _batch()
    expected = _reference_loss(model, ids, labels)
    torch.autograd.backward(expected)
    expected_gradients = _gradients(model)
    index, targets = kept_positions(labels)
    head = KeptPositions(model)
    with head.select(index):
        logits = model(input_ids=ids, use_cache=False).logits
    assert logits.shape == (1, len(index), tiny_models.VOCABULARY)
    loss = kept_loss_sum(logits, targets)
    torch.autograd.backward(loss)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    gradients = _gradients(model)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", ["llama", "llama-tied", "qwen3", "gemma2", "mixtral", "gpt2"])
def test_loss_and_gradients_equal_those_of_all_logits(kind: str) -> None:
    _assert_same_loss_and_gradients(tiny_models.build(kind))


def test_works_with_lora_on_the_output_embedding() -> None:
    config = LoraConfig(r=4, target_modules=["q_proj", "lm_head"], init_lora_weights=False)
    _assert_same_loss_and_gradients(get_peft_model(tiny_models.build("llama"), config))


def test_works_with_gradient_checkpointing() -> None:
    model = tiny_models.build("llama").train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    _assert_same_loss_and_gradients(model)


def test_no_kept_position_gives_zero_loss_and_reaches_every_parameter() -> None:
    model = tiny_models.build("llama")
    ids, labels = _batch()
    index, targets = kept_positions(torch.full_like(labels, -100))
    with KeptPositions(model).select(index):
        loss = kept_loss_sum(model(input_ids=ids, use_cache=False).logits, targets)
    torch.autograd.backward(loss)
    assert loss.item() == 0.0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_outside_of_select_all_logits_are_computed() -> None:
    model = tiny_models.build("llama")
    ids, labels = _batch()
    head = KeptPositions(model)
    with head.select(kept_positions(labels)[0]):
        pass
    assert model(input_ids=ids).logits.shape[:2] == ids.shape
    head.detach()
    with head.select(kept_positions(labels)[0]):
        assert model(input_ids=ids).logits.shape[:2] == ids.shape


def test_the_first_label_of_a_row_is_never_predicted() -> None:
    index, targets = kept_positions(torch.tensor([[5, 6, -100], [7, -100, 8]]))
    assert index.tolist() == [0, 4]
    assert targets.tolist() == [6, 8]


def test_a_model_without_output_embedding_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear has no output embedding"):
        KeptPositions(nn.Linear(2, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [7, 32_000, 128_256])
def test_sum_and_gradient_equal_torch(vocabulary: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = (4 * torch.randn(67, vocabulary, generator=generator)).to(dtype).requires_grad_()
    targets = torch.randint(0, vocabulary, (67,), generator=generator)
    expected = F.cross_entropy(logits.float(), targets, reduction="sum")
    (expected_gradient,) = torch.autograd.grad(expected * 0.37, logits)
    loss = kept_loss_sum(logits, targets)
    (gradient,) = torch.autograd.grad(loss * 0.37, logits)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    rounding = {torch.float32: 1e-5, torch.bfloat16: 2**-7}[dtype]  # scaled after rounding to bf16: two half-ulp errors
    torch.testing.assert_close(gradient, expected_gradient, rtol=rounding, atol=1e-8)
    torch.testing.assert_close(token_losses(logits, targets).sum(), loss.detach(), rtol=1e-5, atol=0)


def test_reused_memory_gives_the_same_gradient() -> None:
    weight = torch.randn(50, 8, requires_grad=True, generator=torch.Generator().manual_seed(2))
    hidden = torch.randn(9, 8, generator=torch.Generator().manual_seed(3))
    targets = torch.arange(9)
    gradients: list[Tensor] = []
    for reuse in (False, True):
        loss = kept_loss_sum(F.linear(hidden, weight), targets, reuse_memory=reuse)
        gradients += torch.autograd.grad(loss, weight)
    assert torch.equal(*gradients)


def test_reusing_memory_that_another_function_saved_raises() -> None:
    hidden = torch.randn(9, 8, requires_grad=True)
    loss = kept_loss_sum(torch.tanh(hidden), torch.zeros(9, dtype=torch.int64), reuse_memory=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(loss)


def test_targets_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"int64 \[K\]"):
        kept_loss_sum(torch.zeros(3, 5), torch.zeros(2, dtype=torch.int64))
