"""A loaded model holds exactly the folder's weights, or the load is refused and every difference is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import tiny_models
from finetune_trainer.errors import DataError, SpecError
from finetune_trainer.model.load import check_spot, load_config, load_model
from finetune_trainer.model.tokenizer import check_fits, load_tokenizer


@pytest.mark.parametrize("kind", ["llama", "llama-tied", "gemma2", "mixtral", "qwen3-moe", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_weight_is_the_files(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    expected = tiny_models.build(kind)
    expected.save_pretrained(tmp_path)
    model = load_model(tmp_path, dtype=dtype)
    named = dict(expected.named_parameters())
    assert {name for name, _ in model.named_parameters()} == set(named)
    assert all(torch.equal(p.data, named[name].data.to(dtype)) for name, p in model.named_parameters())
    assert model.training
    assert model.config.use_cache is False
    assert model.config._attn_implementation == ("eager" if kind == "gemma2" else "sdpa")


def test_rotary_frequencies_stay_float32_in_bfloat16(tmp_path: Path) -> None:
    tiny_models.save("llama", tmp_path)
    frequencies = load_model(tmp_path, dtype=torch.bfloat16).get_buffer("model.rotary_emb.inv_freq")
    assert frequencies.dtype == torch.float32
    assert torch.equal(frequencies, load_model(tmp_path, dtype=torch.float32).get_buffer("model.rotary_emb.inv_freq"))


def test_gradient_checkpointing_is_on_when_asked(tmp_path: Path) -> None:
    tiny_models.save("llama", tmp_path)
    for wanted in (False, True):
        model = load_model(tmp_path, dtype=torch.float32, gradient_checkpointing=wanted)
        layers = [module for module in model.modules() if type(module).__name__ == "LlamaDecoderLayer"]
        assert [module.gradient_checkpointing for module in layers] == [wanted, wanted]


def _drop(weights: dict[str, Tensor]) -> None:
    del weights["model.layers.1.mlp.up_proj.weight"]


def _add(weights: dict[str, Tensor]) -> None:
    weights["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(32)


def _reshape(weights: dict[str, Tensor]) -> None:
    weights["model.norm.weight"] = torch.ones(16)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_drop, r"missing: model\.layers\.1\.mlp\.up_proj\.weight"),
        (_add, r"unexpected: model\.layers\.0\.self_attn\.q_proj\.bias"),
        (_reshape, r"of another shape: model\.norm\.weight is \[16\] instead of \[32\]"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    tmp_path: Path, spoil: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    file = tiny_models.save("llama", tmp_path) / "model.safetensors"
    weights = load_file(file)
    spoil(weights)
    save_file(weights, file, metadata={"format": "pt"})
    remedy = r"write a folder whose config\.json and weights were saved together, or copy all of its files again"
    for given, shown in (("", str(tmp_path)), ("s3://models/tiny", "s3://models/tiny")):
        described = rf"^spec\.model\.uri: {shown} holds other weights than LlamaForCausalLM has: {message}; {remedy}$"
        with pytest.raises(DataError, match=described):
            load_model(tmp_path, dtype=torch.float32, uri=given)


@pytest.mark.parametrize("expert", ["w1", "w2"])
def test_a_missing_or_misshapen_expert_is_found_through_the_fusing(tmp_path: Path, expert: str) -> None:
    file = tiny_models.save("mixtral", tmp_path) / "model.safetensors"
    weights = load_file(file)
    name = f"model.layers.0.block_sparse_moe.experts.3.{expert}.weight"
    shape = weights.pop(name).shape
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"model\.layers\.0\.mlp\.experts"):
        load_model(tmp_path, dtype=torch.float32)
    save_file(weights | {name: torch.zeros(shape[0] + 1, shape[1])}, file, metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"weights cannot be fused into .*model\.layers\.0\.mlp\.experts"):
        load_model(tmp_path, dtype=torch.float32)


def test_a_weight_that_changed_after_loading_is_found(tmp_path: Path) -> None:
    file = tiny_models.save("llama", tmp_path) / "model.safetensors"
    model = load_model(tmp_path, dtype=torch.float32)
    check_spot(model, [file])
    with torch.no_grad():
        model.get_parameter("lm_head.weight").normal_()
    with pytest.raises(DataError, match=r"lm_head\.weight differ from the file"):
        check_spot(model, [file])


def test_a_truncated_weights_file_is_named(tmp_path: Path) -> None:
    file = tiny_models.save("llama", tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"model\.safetensors is no whole safetensors file: copy it again"):
        load_model(tmp_path, dtype=torch.float32)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "no-such-model"}, "is not understood by transformers"),
        ({"model_type": "vit"}, "is of type 'vit', which is no causal language model"),
    ],
)
def test_an_architecture_that_cannot_be_trained_is_refused(
    tmp_path: Path, config: dict[str, str], message: str
) -> None:
    tiny_models.save("llama", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=message):
        load_model(tmp_path, dtype=torch.float32)


def test_the_tokenizer_gets_the_reserved_padding_token_else_the_end_of_sequence(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_models.save_tokenizer(tmp_path))
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<pad>", 0)
    assert len(tokenizer) == tiny_models.VOCABULARY
    renamed = (tmp_path / "tokenizer.json").read_text().replace("<pad>", "<zero>")
    (tmp_path / "tokenizer.json").write_text(renamed)
    assert load_tokenizer(tmp_path).pad_token == "</s>"


def test_the_chat_template_is_the_manifests_or_the_models(tmp_path: Path) -> None:
    tiny_models.save_tokenizer(tmp_path)
    messages = [{"role": "user", "content": "a"}]
    assert load_tokenizer(tmp_path).apply_chat_template(messages, tokenize=False) == "<s>user: a</s>"
    other = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}!{% endfor %}"
    assert load_tokenizer(tmp_path, other).apply_chat_template(messages, tokenize=False) == "a!"
    (tmp_path / "mine.jinja").write_text(other)
    from_file = load_tokenizer(tmp_path, f"file://{tmp_path}/mine.jinja")
    assert from_file.apply_chat_template(messages, tokenize=False) == "a!"


@pytest.mark.parametrize(
    ("template", "message"),
    [("{% for m in messages %}", "is no Jinja template"), ("file:///no/template.jinja", "cannot be read")],
)
def test_a_bad_chat_template_is_named(tmp_path: Path, template: str, message: str) -> None:
    with pytest.raises(SpecError, match=rf"spec\.model\.chatTemplate: {message}"):
        load_tokenizer(tiny_models.save_tokenizer(tmp_path), template)


def test_a_folder_without_fast_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no tokenizer that transformers can read"):
        load_tokenizer(tiny_models.save("llama", tmp_path))


def test_ids_and_positions_must_lie_within_the_models_tables(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_models.save_tokenizer(tmp_path))
    check_fits(tokenizer, load_config(tiny_models.save("llama", tmp_path)), 512)
    with pytest.raises(SpecError, match=r"spec\.data\.maxLength: the model has 512 positions: write less \(got 513\)"):
        check_fits(tokenizer, load_config(tmp_path), 513)
    with pytest.raises(DataError, match="the tokenizer has 96 tokens, the model embeds 64"):
        check_fits(tokenizer, load_config(tiny_models.save("llama", tmp_path, vocab_size=64)), 512)
