"""From a model's config.json to its shape, without transformers; other architectures are refused, not guessed at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from finetune_trainer.estimate.shape import ModelShape

Config = Mapping[str, Any]
MOST_LAYERS = 10_000
"""More are a mistake, and would only cost time here."""


class UnknownArchitecture(ValueError):
    """The configuration does not describe a model whose memory is known here; the message names what is missing."""


def read_shape(config: Config) -> ModelShape:
    """The shape that a config.json describes. Raises UnknownArchitecture for other model types and missing sizes."""
    kind = str(config.get("model_type"))
    if kind not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise UnknownArchitecture(f"model_type {kind!r} has no formula: known are {known}")
    try:
        return ModelShape(**{**_common(config), **FAMILIES[kind](config)})
    except KeyError as error:
        raise UnknownArchitecture(f"config.json of model_type {kind!r} has no {error.args[0]}") from error
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UnknownArchitecture(f"config.json of model_type {kind!r} cannot be used: {error}") from error


def _common(config: Config) -> dict[str, Any]:
    heads = _size(config, "num_attention_heads")
    if (layers := _size(config, "num_hidden_layers")) > MOST_LAYERS:
        raise ValueError(f"num_hidden_layers is {layers}")
    return {
        "hidden": _size(config, "hidden_size"),
        "layers": layers,
        "heads": heads,
        "kv_heads": int(config.get("num_key_value_heads") or heads),
        "head_dim": int(config.get("head_dim") or _size(config, "hidden_size") // heads),
        "intermediate": _size(config, "intermediate_size"),
        "vocabulary": _size(config, "vocab_size"),
        "tied": bool(config.get("tie_word_embeddings", False)),
    }


def _size(config: Config, name: str) -> int:
    value = config[name]
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}")
    return value


def _llama(config: Config) -> dict[str, Any]:
    bias = bool(config.get("attention_bias", False))
    return {"qkv_bias": bias, "output_bias": bias, "mlp_bias": bool(config.get("mlp_bias", False))}


def _qwen2(_: Config) -> dict[str, Any]:
    return {"qkv_bias": True}


def _qwen3(config: Config) -> dict[str, Any]:
    bias = bool(config.get("attention_bias", False))
    return {"qk_norm": True, "qkv_bias": bias, "output_bias": bias, "head_dim": int(config.get("head_dim") or 128)}


def _qwen3_moe(config: Config) -> dict[str, Any]:
    layers, step = _size(config, "num_hidden_layers"), int(config.get("decoder_sparse_step", 1))
    dense = set(config.get("mlp_only_layers") or [])
    experts = int(config.get("num_experts") or config["num_local_experts"])
    return _qwen3(config) | {
        "experts": experts,
        "experts_per_token": _size(config, "num_experts_per_tok"),
        "expert_intermediate": _size(config, "moe_intermediate_size"),
        "sparse_layers": sum(layer not in dense and (layer + 1) % step == 0 for layer in range(layers)),
    }


def _mixtral(config: Config) -> dict[str, Any]:
    return {
        "experts": _size(config, "num_local_experts"),
        "experts_per_token": _size(config, "num_experts_per_tok"),
        "expert_intermediate": _size(config, "intermediate_size"),
        "sparse_layers": _size(config, "num_hidden_layers"),
    }


def _gemma(config: Config) -> dict[str, Any]:
    return {"wide_norms": True, "tied": bool(config.get("tie_word_embeddings", True))}


def _gemma2(config: Config) -> dict[str, Any]:
    capped = config.get("final_logit_softcapping", 30.0) is not None
    return _gemma(config) | {"norms": 4, "soft_capped": capped, "eager": True}


def _gemma3(config: Config) -> dict[str, Any]:
    capped = config.get("final_logit_softcapping") is not None
    return _gemma(config) | {"norms": 4, "qk_norm": True, "soft_capped": capped}


def _phi3(_: Config) -> dict[str, Any]:
    return {"fused_projections": True}


FAMILIES: dict[str, Callable[[Config], dict[str, Any]]] = {
    "llama": _llama,
    "mistral": lambda config: {},
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "mixtral": _mixtral,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "phi3": _phi3,
}
"""What each model type of transformers has besides the common sizes."""
