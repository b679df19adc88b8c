"""A score head on a causal language model's weights: what it begins with, and where its scores are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

import tiny_models
from finetune_trainer.errors import DataError
from finetune_trainer.model.isolation import measure_isolation
from finetune_trainer.model.load import load_model
from finetune_trainer.model.lora import apply_lora
from finetune_trainer.model.partial import freeze
from finetune_trainer.model.score import ScoreHead, ScorePositions
from finetune_trainer.spec import LoRA
from finetune_trainer.spec.method import Full

HEAD = ScoreHead(("ham", "spam", "unsure"), "single_label_classification", pad_id=0, seed=3)
IDS = torch.randint(3, tiny_models.VOCABULARY, (2, 17), generator=torch.Generator().manual_seed(0))
KINDS = ("llama", "llama-tied", "qwen3", "gemma2", "gemma3", "mixtral", "qwen2-moe", "gpt2")


def loaded(path: Path, head: ScoreHead = HEAD, **options: Any) -> Any:
    return load_model(path, dtype=torch.float32, head=head, **options)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", KINDS)
def test_scores_at_chosen_positions_are_those_that_transformers_reads_there(kind: str, tmp_path: Path) -> None:
    model = loaded(tiny_models.save(kind, tmp_path)).eval()
    padded = IDS.clone()
    padded[0, 11:] = HEAD.pad_id
    with torch.no_grad():
        expected = model(input_ids=padded, use_cache=False).logits
        with ScorePositions(model).select(torch.tensor([10, 33])):
            found = model(input_ids=padded, use_cache=False).logits
        again = model(input_ids=padded, use_cache=False).logits
    assert found.shape == (1, 2, 3)
    torch.testing.assert_close(found[0], expected, rtol=1e-6, atol=1e-7)
    assert torch.equal(again, expected)


@pytest.mark.parametrize("method", ["Full", "LoRA"])
def test_gradients_reach_every_trained_weight_and_equal_those_of_the_pooled_scores(method: str, tmp_path: Path) -> None:
    path = tiny_models.save("llama", tmp_path)

    def model() -> Any:
        found = loaded(path, gradient_checkpointing=True)
        return apply_lora(found, LoRA(rank=4, alpha=8), seed=1)[0] if method == "LoRA" else found

    pooled, chosen = model(), model()
    torch.autograd.backward(pooled(input_ids=IDS, use_cache=False).logits.square().sum())
    with ScorePositions(chosen).select(torch.tensor([16, 33])):
        scores = chosen(input_ids=IDS, use_cache=False).logits
    torch.autograd.backward(scores.square().sum())
    expected = gradients(pooled)
    trained = {name for name, p in chosen.named_parameters() if p.requires_grad}
    assert gradients(chosen).keys() == expected.keys() == trained
    for name, gradient in gradients(chosen).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_no_position_gives_no_score_and_reaches_every_weight(tmp_path: Path) -> None:
    model = loaded(tiny_models.save("llama", tmp_path))
    with ScorePositions(model).select(torch.zeros(0, dtype=torch.int64)):
        scores = model(input_ids=IDS, use_cache=False).logits
    torch.autograd.backward(scores.sum())
    assert scores.shape == (1, 0, 3)
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_a_new_head_depends_on_the_seed_alone(tmp_path: Path) -> None:
    path = tiny_models.save("llama", tmp_path)
    torch.manual_seed(1)
    one = loaded(path)
    torch.manual_seed(2)
    same, other = loaded(path), loaded(path, ScoreHead(HEAD.labels, HEAD.problem_type, 0, seed=4))
    assert torch.equal(one.score.weight, same.score.weight)
    assert not torch.equal(one.score.weight, other.score.weight)
    assert one.score.weight.std().item() == pytest.approx(one.config.initializer_range, rel=0.2)


def test_a_head_that_was_trained_before_goes_on(tmp_path: Path) -> None:
    first = loaded(tiny_models.save("llama", tmp_path / "base"))
    first.save_pretrained(tmp_path / "classifier")
    second = loaded(tmp_path / "classifier", ScoreHead(HEAD.labels, HEAD.problem_type, 0, seed=9))
    assert torch.equal(first.score.weight, second.score.weight)
    message = r"classifier scores ham, spam, unsure \(3 in all\), and this job spam, ham \(2\): write its labels"
    with pytest.raises(DataError, match=message):
        loaded(tmp_path / "classifier", ScoreHead(("spam", "ham"), HEAD.problem_type, 0))


def test_an_adapter_leaves_the_head_alone_which_is_trained_whole(tmp_path: Path) -> None:
    model, coverage = apply_lora(loaded(tiny_models.save("llama", tmp_path)), LoRA(rank=4, alpha=8), seed=0)
    trained = [name for name, p in model.named_parameters() if p.requires_grad and ".lora_" not in name]
    assert trained == ["base_model.model.score.modules_to_save.default.weight"]
    kinds = {kind.name: (kind.trained, kind.total) for kind in coverage.kinds}
    assert kinds["score"] == (1, 1)
    assert coverage.parameters == sum(p.numel() for p in loaded(tmp_path).parameters())


def test_an_architecture_without_a_head_is_refused(tmp_path: Path) -> None:
    path = tiny_models.save("mamba", tmp_path)
    with pytest.raises(DataError, match=f"{path} is of type 'mamba', of which transformers has no classifier"):
        loaded(path)


def test_a_model_without_a_head_has_no_scores() -> None:
    with pytest.raises(ValueError, match="LlamaForCausalLM has no score head"):
        ScorePositions(tiny_models.build("llama"))


def test_packed_documents_are_proved_apart_by_their_scores(tmp_path: Path) -> None:
    model = loaded(tiny_models.save("llama", tmp_path, attention_bias=False))
    report = measure_isolation(model, torch.device("cpu"), ScorePositions(model))
    assert report.isolated
    assert report.alone < 1e-5


def test_the_configuration_says_what_is_scored(tmp_path: Path) -> None:
    loaded(tiny_models.save("llama", tmp_path / "base")).save_pretrained(tmp_path / "saved")
    load: Any = AutoModelForSequenceClassification.from_pretrained
    config = load(tmp_path / "saved").config
    assert config.id2label == {0: "ham", 1: "spam", 2: "unsure"}
    assert (config.label2id["spam"], config.num_labels, config.pad_token_id) == (1, 3, 0)
    assert config.problem_type == "single_label_classification"


def test_a_part_of_the_weights_takes_the_head_in_unless_it_is_frozen(tmp_path: Path) -> None:
    model = loaded(tiny_models.save("llama", tmp_path))
    freeze(model, Full(train=("layers.1",)))
    assert {name.split(".")[0] for name, one in model.named_parameters() if one.requires_grad} == {"model", "score"}
    freeze(model, Full(train=("layers.1",), freeze=("score",)))
    assert not model.score.weight.requires_grad
