"""Adapters stand beside exactly the weights that were asked for, and start from the same values everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

import tiny_models
from finetune_trainer.errors import SpecError
from finetune_trainer.model.coverage import Coverage, Kind
from finetune_trainer.model.lora import apply_lora, full_coverage
from finetune_trainer.spec.method import LoRA

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def _apply(kind: str, *patterns: str, **options: Any) -> tuple[PeftModel, Coverage]:
    lora = LoRA(rank=4, alpha=8, target_modules=patterns or ("all-linear",), **options)
    return apply_lora(tiny_models.build(kind), lora, seed=7)


def _kinds(covered: Coverage) -> dict[str, str]:
    return {kind.name: f"{kind.trained}/{kind.total}" for kind in covered.kinds}


def test_all_linear_is_every_linear_layer_but_the_output_embedding() -> None:
    model, covered = _apply("llama")
    layers = {f"self_attn.{name}" for name in ATTENTION} | {f"mlp.{name}_proj" for name in ("gate", "up", "down")}
    assert _kinds(covered) == dict.fromkeys(layers, "2/2") | {"lm_head": "0/1"}
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert covered.trained_parameters == trained == 2 * 4 * (2 * 64 + 2 * 48 + 3 * 80)
    assert covered.parameters == sum(p.numel() for p in tiny_models.build("llama").parameters())


@pytest.mark.parametrize("kind", ["mixtral", "qwen3-moe"])
def test_all_linear_includes_fused_experts_and_leaves_routers(kind: str) -> None:
    model, covered = _apply(kind)
    expected = {f"self_attn.{name}": "2/2" for name in ATTENTION} | {"lm_head": "0/1"}
    assert _kinds(covered) == expected | {"mlp.experts.gate_up_proj": "2/2", "mlp.experts.down_proj": "2/2"}
    assert not any(".gate." in name for name, p in model.named_parameters() if p.requires_grad)
    _assert_every_adapter_learns(model)


def test_shared_experts_and_dense_layers_beside_fused_experts_are_not_skipped() -> None:
    model, covered = _apply("qwen2-moe")
    kinds = _kinds(covered)
    assert kinds.pop("lm_head") == "0/1"
    assert {"mlp.shared_expert.gate_proj", "mlp.gate_proj", "mlp.experts.gate_up_proj"} <= kinds.keys()
    assert all(trained == total for trained, total in (value.split("/") for value in kinds.values()))
    _assert_every_adapter_learns(model)


def _assert_every_adapter_learns(model: PeftModel) -> None:
    """B gets a gradient through A, and changing B changes the logits."""
    ids = torch.arange(3, 60)[None]
    before = model(input_ids=ids).logits
    torch.autograd.backward(before.logsumexp(-1).sum())
    adapters = {name: p for name, p in model.named_parameters() if ".lora_B." in name}
    assert all(p.grad is not None and p.grad.any() for p in adapters.values())
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {
        name for name, p in model.named_parameters() if p.requires_grad
    }


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (("q_proj",), {"self_attn.q_proj": "2/2"}),
        (("self_attn.q_proj", "up_proj"), {"self_attn.q_proj": "2/2", "mlp.up_proj": "2/2"}),
        (("model.layers.1.mlp.up_proj",), {"mlp.up_proj": "1/2"}),
        (("*.layers.0.self_attn.[qv]_proj",), {"self_attn.q_proj": "1/2", "self_attn.v_proj": "1/2"}),
        (("lm_head",), {"lm_head": "1/1"}),
    ],
)
def test_names_endings_and_globs_choose_layers(patterns: tuple[str, ...], expected: dict[str, str]) -> None:
    _, covered = _apply("llama", *patterns)
    assert {name: count for name, count in _kinds(covered).items() if not count.startswith("0")} == expected


def test_an_ending_can_name_fused_experts_alone() -> None:
    _, covered = _apply("mixtral", "experts.down_proj")
    assert {name for name, count in _kinds(covered).items() if not count.startswith("0")} == {"mlp.experts.down_proj"}


@pytest.mark.parametrize("pattern", ["query", "proj", "embed_tokens", "model.layers.9.*", "norm"])
def test_a_pattern_that_names_no_linear_layer_is_refused_with_what_there_is(pattern: str) -> None:
    with pytest.raises(SpecError) as caught:
        _apply("llama", "q_proj", pattern)
    (problem,) = caught.value.problems
    assert (problem.path, problem.value) == ("spec.method.lora.targetModules", pattern)
    assert "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj" in problem.message


def test_every_pattern_that_names_nothing_is_reported_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        _apply("llama", "query", "key")
    assert [problem.value for problem in caught.value.problems] == ["query", "key"]


def test_a_model_without_linear_layers_is_refused() -> None:
    model = tiny_models.build("llama")
    for layer in model.get_submodule("model.layers").children():
        layer.self_attn = layer.mlp = torch.nn.Identity()
    with pytest.raises(SpecError, match="type: Full, because no layer of it can have an adapter"):
        apply_lora(model, LoRA(), seed=0)


def test_dropout_with_fused_experts_is_refused() -> None:
    with pytest.raises(SpecError, match=r"spec\.method\.lora\.dropout: cannot be applied to .*experts.*write 0"):
        _apply("mixtral", dropout=0.1)
    _apply("mixtral", *ATTENTION, dropout=0.1)


def test_initial_values_depend_on_seed_and_name_only() -> None:
    def values(seed: int, noise: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(noise)
        state = torch.random.get_rng_state()
        model, _ = apply_lora(tiny_models.build("llama"), LoRA(rank=4), seed=seed)
        assert torch.equal(state, torch.random.get_rng_state())
        return {name: p.detach() for name, p in model.named_parameters() if ".lora_" in name}

    first, again, other = values(1, 10), values(1, 20), values(2, 10)
    assert all(torch.equal(first[name], again[name]) for name in first)
    down = {name: value for name, value in first.items() if ".lora_A." in name}
    assert all(not torch.equal(value, other[name]) for name, value in down.items())
    assert all(not value.any() for name, value in first.items() if ".lora_B." in name)
    assert len({value.sum().item() for value in down.values()}) == len(down)
    for value in down.values():
        bound = value.shape[1] ** -0.5
        assert value.abs().max() <= bound
        assert value.abs().mean() == pytest.approx(bound / 2, rel=0.2)


def test_adapters_have_the_dtype_of_the_weights_beside_them() -> None:
    model, _ = apply_lora(tiny_models.build("mixtral").bfloat16(), LoRA(rank=2), seed=0)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_logits_are_the_base_models_before_training() -> None:
    ids = torch.arange(3, 40)[None]
    expected = tiny_models.build("qwen2-moe")(input_ids=ids).logits
    model, _ = _apply("qwen2-moe")
    torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=0, atol=1e-6)
    with model.disable_adapter():
        assert torch.equal(model(input_ids=ids).logits, expected)


def test_the_adapter_config_names_endings_a_person_would_write() -> None:
    config: Any = _apply("llama")[0].peft_config["default"]
    assert set(config.target_modules) == {*ATTENTION, "gate_proj", "up_proj", "down_proj"}


def test_full_fine_tuning_covers_everything() -> None:
    model = tiny_models.build("mixtral")
    covered = full_coverage(model)
    assert covered.trainable_share == 1.0
    assert all(kind.trained == kind.total for kind in covered.kinds)


def test_coverage_prints_and_serialises() -> None:
    covered = Coverage(200, 50, (Kind("self_attn.q_proj", 2, 1), Kind("lm_head", 1, 0)))
    assert str(covered).splitlines() == [
        "50 parameters are trained, 25.000% of 200",
        "  self_attn.q_proj  1/2",
        "  lm_head           0/1",
    ]
    assert json.loads(json.dumps(covered.to_json()))["kinds"]["self_attn.q_proj"] == {"total": 2, "trained": 1}


@pytest.mark.parametrize("kind", ["llama", "llama-tied", "mixtral", "qwen2-moe"])
def test_peft_loads_what_it_saves(kind: str, tmp_path: Path) -> None:
    model, _ = _apply(kind)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.uniform_(-0.1, 0.1)
    ids = torch.arange(3, 40)[None]
    model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(tiny_models.build(kind), str(tmp_path))
    torch.testing.assert_close(loaded(input_ids=ids).logits, model(input_ids=ids).logits, rtol=0, atol=1e-6)
