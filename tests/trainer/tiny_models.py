"""Randomly initialised causal language models of a few thousand parameters, saved as real model folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel

VOCABULARY = 96
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}

CONFIGS: dict[str, Callable[..., PreTrainedConfig]] = {
    "llama": lambda **options: transformers.LlamaConfig(**(_SIZES | options)),
    "llama-tied": lambda **options: transformers.LlamaConfig(**(_SIZES | {"tie_word_embeddings": True} | options)),
    "qwen3": lambda **options: transformers.Qwen3Config(**(_SIZES | {"head_dim": 8} | options)),
    "mistral-window": lambda **options: transformers.MistralConfig(**(_SIZES | {"sliding_window": 8} | options)),
    "gemma2": lambda **options: transformers.Gemma2Config(
        **(_SIZES | {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8} | options)
    ),
    "gemma3": lambda **options: transformers.Gemma3TextConfig(
        **(_SIZES | {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8} | options)
    ),
    "mixtral": lambda **options: transformers.MixtralConfig(
        **(_SIZES | {"num_local_experts": 4, "num_experts_per_tok": 2} | options)
    ),
    "qwen3-moe": lambda **options: transformers.Qwen3MoeConfig(**(_SIZES | _EXPERTS | options)),
    "qwen2-moe": lambda **options: transformers.Qwen2MoeConfig(
        **(_SIZES | _EXPERTS | {"shared_expert_intermediate_size": 24, "mlp_only_layers": [1]} | options)
    ),
    "gpt2": lambda **options: transformers.GPT2Config(
        **(
            {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
            | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
            | options
        )
    ),
    "mamba": lambda **options: transformers.MambaConfig(
        **({"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8} | options)
    ),
}


def build(kind: str, *, seed: int = 0, **options: Any) -> PreTrainedModel:
    """A model of that kind with weights drawn from `seed`, in float32 on the CPU.

    The weights are drawn five times as wide as usual, so that attention is far from uniform and a leak shows.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = CONFIGS[kind](**({"initializer_range": 0.1} | options))
        from_config: Any = transformers.AutoModelForCausalLM.from_config
        model: PreTrainedModel = from_config(config).eval()
    return model


def save(kind: str, folder: Path, *, seed: int = 0, shard_size: str = "5GB", **options: Any) -> Path:
    """`build` it and save it to `folder` as safetensors; returns the folder."""
    build(kind, seed=seed, **options).save_pretrained(folder, max_shard_size=shard_size)
    return folder


CHAT_TEMPLATE = "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"


def save_tokenizer(folder: Path, *, pad_token: str | None = None, chat_template: str | None = CHAT_TEMPLATE) -> Path:
    """A tokenizer of VOCABULARY tokens (special ones and printable characters) in that folder."""
    characters = [chr(code) for code in range(32, 32 + VOCABULARY - 4)]
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", *characters])}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    model.decoder = tokenizers.decoders.Fuse()
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    if pad_token is not None:
        special["pad_token"] = pad_token
    make: Any = transformers.PreTrainedTokenizerFast
    fast = make(tokenizer_object=model, chat_template=chat_template, **special)
    fast.save_pretrained(folder)
    return folder
