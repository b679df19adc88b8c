"""Every variant of the adapters learns what plain peft's own model learns: the same loss, the same gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

import tiny_models
from finetune_trainer.errors import SpecError
from finetune_trainer.model.coverage import Coverage
from finetune_trainer.model.decompose import EXACT_BELOW, Factors, decompose, take_out
from finetune_trainer.model.load import load_model
from finetune_trainer.model.lora import apply_lora
from finetune_trainer.model.quantize import quantization, settle
from finetune_trainer.spec.method import Initialization, LoRA, ModuleRank, QLoRA, QuantType

CPU = torch.device("cpu")
IDS = torch.arange(3, 43).reshape(2, 20)
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "plain": ("llama", {}, {}),
    "DoRA": ("llama", {"dora": True}, {"use_dora": True}),
    "rsLoRA": ("llama", {"rslora": True}, {"use_rslora": True}),
    "DoRA and rsLoRA": ("llama", {"dora": True, "rslora": True}, {"use_dora": True, "use_rslora": True}),
    "PiSSA": ("llama", {"initialization": Initialization.PISSA}, {"init_lora_weights": "pissa"}),
    "OLoRA": ("llama", {"initialization": Initialization.OLORA}, {"init_lora_weights": "olora"}),
    "PiSSA and rsLoRA": (
        "llama-tied",
        {"initialization": Initialization.PISSA, "rslora": True},
        {"init_lora_weights": "pissa", "use_rslora": True},
    ),
    "other ranks": (
        "qwen2-moe",
        {
            "per_module": (
                ModuleRank(modules=("layers.1.self_attn.q_proj",), rank=2, alpha=3),
                ModuleRank(modules=("*_proj",), rank=3),
            ),
            "target_modules": ("q_proj", "v_proj"),
        },
        {"r": 3, "rank_pattern": {"layers.1.self_attn.q_proj": 2}, "alpha_pattern": {"layers.1.self_attn.q_proj": 3}}
        | {"target_modules": ["q_proj", "v_proj"]},
    ),
    "other ranks of experts": (
        "mixtral",
        {"per_module": (ModuleRank(modules=("experts.down_proj",), rank=2, alpha=8),), "dora": False},
        {"target_modules": LINEAR[:4], "target_parameters": EXPERTS}
        | {"rank_pattern": {"down_proj": 2}, "alpha_pattern": {"down_proj": 8}},
    ),
    "modules to save": (
        "llama",
        {"modules_to_save": ("lm_head", "model.norm", "*.post_attention_layernorm")},
        {"modules_to_save": ["lm_head", "model.norm", "post_attention_layernorm"]},
    ),
}


def ours(base: Any, **options: Any) -> tuple[Any, Coverage]:
    lora = LoRA(rank=4, alpha=8, **options)
    model, covered = apply_lora(base, lora, seed=7)
    if lora.initialization is not Initialization.DEFAULT:
        take_out(model, decompose(model, lora.initialization, 7, CPU))
    return model, covered


def plain(base: Any, model: Any, **options: Any) -> Any:
    """peft's own, with our first values where peft's are random."""
    usual: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": LINEAR, "task_type": "CAUSAL_LM"}
    theirs: Any = get_peft_model(base, LoraConfig(**usual | options), autocast_adapter_dtype=False)
    if not isinstance(options.get("init_lora_weights"), str):
        values = {name: one for name, one in model.state_dict().items() if ".lora_A." in name or ".lora_B." in name}
        assert theirs.load_state_dict(values, strict=False).unexpected_keys == []
    return theirs


def learnt(model: Any) -> tuple[float, dict[str, Tensor]]:
    """Loss of a fixed batch, and the gradient of every weight that has one."""
    logits = model(input_ids=IDS, use_cache=False).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), IDS[:, 1:].flatten())
    torch.autograd.backward(loss)
    return loss.item(), {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


def assert_equal(model: Any, theirs: Any) -> None:
    (loss, gradients), (expected, wanted) = learnt(model), learnt(theirs)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert gradients.keys() == wanted.keys()
    largest = max(gradient.abs().max().item() for gradient in wanted.values())
    assert largest > 1e-3
    for name, gradient in wanted.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-5, atol=1e-5 * largest, msg=name)


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_those_of_peft(case: str) -> None:
    kind, options, theirs = CASES[case]
    model, _ = ours(tiny_models.build(kind), **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name and "init_lora_weights" not in theirs:
                parameter.copy_(torch.sin(torch.arange(parameter.numel())).view_as(parameter) * 0.1)
    assert_equal(model, plain(tiny_models.build(kind), model, **theirs))


@pytest.mark.parametrize("options", [{}, {"dora": True}], ids=["LoRA", "DoRA"])
@pytest.mark.parametrize("double", [True, False], ids=["double", "single"])
def test_four_bits_learn_what_peft_learns_on_them(tmp_path: Path, options: dict[str, Any], double: bool) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    path = tiny_models.save("llama", tmp_path, hidden_size=64, intermediate_size=128)
    qlora = QLoRA(quant_type=QuantType.NF4, double_quantization=double)
    base = load_model(path, dtype=torch.float32, quantization=quantization(qlora, torch.float32, CPU))
    settle(base)
    model, covered = ours(base, **options)
    make: Any = BitsAndBytesConfig
    wanted = make(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double)
    wanted.bnb_4bit_compute_dtype = torch.float32
    load: Any = AutoModelForCausalLM.from_pretrained
    reference = load(path, dtype=torch.float32, quantization_config=wanted, device_map={"": "cpu"})
    theirs = plain(reference.train(), model, use_dora=options.get("dora", False))
    assert_equal(model, theirs)
    whole = tiny_models.build("llama", hidden_size=64, intermediate_size=128)
    assert covered.parameters == sum(one.numel() for one in whole.parameters())
    bits = {one.dtype for name, one in model.named_parameters() if name.endswith("q_proj.base_layer.weight")}
    assert bits == {torch.uint8}


@pytest.mark.parametrize("kind", list(Initialization)[1:])
def test_what_adapters_begin_as_leaves_the_logits_and_hangs_on_nothing_but_weights_and_seed(
    kind: Initialization, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tiny_models.build("gpt2")(input_ids=IDS).logits
    found: list[Factors] = []
    for exact_below, noise in ((EXACT_BELOW, 1), (0, 2), (0, 3)):
        monkeypatch.setattr("finetune_trainer.model.decompose.EXACT_BELOW", exact_below)
        torch.manual_seed(noise)
        model, _ = apply_lora(tiny_models.build("gpt2"), LoRA(rank=40, alpha=8, initialization=kind), seed=3)
        found.append(decompose(model, kind, 3, CPU))
        take_out(model, found[-1])
        torch.testing.assert_close(model(input_ids=IDS).logits, before, rtol=1e-4, atol=1e-4)
    exact, fast, again = found
    assert all(torch.equal(fast[name], again[name]) for name in fast)
    for name in [name.removesuffix(".A") for name in exact if name.endswith(".A")]:
        torch.testing.assert_close(
            fast[f"{name}.B"] @ fast[f"{name}.A"], exact[f"{name}.B"] @ exact[f"{name}.A"], rtol=1e-3, atol=1e-3
        )


def test_a_module_that_is_saved_counts_as_trained_and_only_once() -> None:
    base: Any = tiny_models.build("llama")
    size = sum(one.numel() for one in base.parameters())
    head = base.get_output_embeddings().weight.numel()
    plain_cover, covered = ours(tiny_models.build("llama"))[1], ours(base, modules_to_save=("lm_head",))[1]
    assert covered.parameters == size
    assert covered.trained_parameters == plain_cover.trained_parameters + head
    assert {kind.name: (kind.trained, kind.total) for kind in covered.kinds}["lm_head"] == (1, 1)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "modulesToSave names nothing": (
        "llama",
        {"modules_to_save": ("lm_haed",)},
        r"spec\.method\.lora\.modulesToSave: names no module of this model: write lm_head, .*\(got 'lm_haed'\)",
    ),
    "perModule names nothing": (
        "llama",
        {"per_module": (ModuleRank(modules=("down",), rank=2),)},
        r"perModule\[0\]\.modules: names none of the modules that have an adapter: write mlp\.down_proj, .*'down'",
    ),
    "perModule names a layer without adapter": (
        "llama",
        {"per_module": (ModuleRank(modules=("up_proj",), rank=2),), "target_modules": ("q_proj",)},
        r"perModule\[0\]\.modules: names none of the modules that have an adapter: write self_attn\.q_proj",
    ),
    "adapted and saved": (
        "llama",
        {"modules_to_save": ("layers.0.mlp",)},
        r"modulesToSave: has an adapter on model\.layers\.0\.mlp\.down_proj already: leave it out of targetModules",
    ),
    "tied and saved": (
        "llama-tied",
        {"modules_to_save": ("embed_tokens",)},
        r"modulesToSave: shares its weights with lm_head\.weight, and a copy .* write type: Full",
    ),
    "DoRA on experts": (
        "mixtral",
        {"dora": True},
        r"spec\.method\.lora\.dora: cannot be applied to .*experts.*: write false, or name targetModules without",
    ),
    "PiSSA on experts": (
        "mixtral",
        {"initialization": Initialization.PISSA},
        r"spec\.method\.lora\.initialization: cannot be applied to .*experts.*: write Default",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_by_name_with_what_is_near(case: str) -> None:
    kind, options, message = REFUSED[case]
    with pytest.raises(SpecError, match=message):
        ours(tiny_models.build(kind), **options)


def test_weights_of_four_bits_are_the_same_before_and_after_an_evaluation(tmp_path: Path) -> None:
    path = tiny_models.save("llama", tmp_path, hidden_size=64, intermediate_size=128)
    model: Any = load_model(path, dtype=torch.float32, quantization=quantization(QLoRA(), torch.float32, CPU))
    settle(model)
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    first = model.train()(input_ids=IDS).logits
    with torch.no_grad():
        evaluated = model.eval()(input_ids=IDS).logits
    torch.testing.assert_close(evaluated, first, rtol=1e-5, atol=1e-5)
    assert torch.equal(model.train()(input_ids=IDS).logits, first)
    assert all(torch.equal(one, before[name]) for name, one in model.named_parameters())


def test_fused_experts_are_refused_in_four_bits() -> None:
    with pytest.raises(SpecError, match=r"spec\.method\.type: cannot quantise .*experts.*: write LoRA \(got 'QLoRA'\)"):
        settle(tiny_models.build("mixtral"))
