"""`config.json` and `generation_config.json` of an exported model: those of the base, with what training changed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from finetune_trainer.model.folder import CONFIG
from finetune_trainer.model.score import classifier

GENERATION = "generation_config.json"
HEAD_KEYS = ("architectures", "id2label", "label2id", "problem_type", "pad_token_id")

NOTHING: Mapping[str, Any] = {}


def write_config(
    model_path: Path, folder: Path, dtype: torch.dtype, vocabulary: int = 0, head: Mapping[str, Any] = NOTHING
) -> None:
    """Copy the base model's configuration, with the dtype of the exported weights, which loaders go by.

    `vocabulary` is the number of embeddings, which added tokens may have made more. `head`: what the configuration of a
    classifier says besides (`head_config`).
    """
    config = json.loads((model_path / CONFIG).read_text(encoding="utf-8")) | dict(head)
    if "text_config" in config and "pad_token_id" in head:  # the text model's own is what is looked at
        config["text_config"] = {**config["text_config"], "pad_token_id": head["pad_token_id"]}
    name = str(dtype).removeprefix("torch.")
    config["dtype"] = name
    if "torch_dtype" in config:  # what transformers before 4.56 reads
        config["torch_dtype"] = name
    text = config if "vocab_size" in config else config.get("text_config", {})
    if vocabulary > text.get("vocab_size", vocabulary):
        text["vocab_size"] = vocabulary
    _write(folder / CONFIG, config)


def head_config(module: nn.Module) -> dict[str, Any]:
    """What `config.json` must say of the score head of an engine's module; nothing for a causal language model."""
    model = classifier(module)
    if model is None:
        return {}
    config = model.config
    return {
        "architectures": [type(model).__name__],
        "id2label": {str(number): label for number, label in config.id2label.items()},
        "label2id": dict(config.label2id),
        "problem_type": config.problem_type,
        "pad_token_id": config.get_text_config().pad_token_id,
    }


def write_head_config(module: nn.Module, folder: Path) -> None:
    """The configuration of a classifier beside its adapter, because that of its base knows of no head; else nothing."""
    model = classifier(module)
    if model is not None:
        config = deepcopy(model.config)
        config.architectures = [type(model).__name__]
        config.save_pretrained(folder)


def read_head_config(adapter: Path) -> dict[str, Any]:
    """`head_config` of the classifier's adapter in a folder, as `write_head_config` left it, as far as it is there."""
    path = adapter / CONFIG
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    pad = config.get("text_config", {}).get("pad_token_id", config.get("pad_token_id"))
    return {key: value for key, value in (config | {"pad_token_id": pad}).items() if key in HEAD_KEYS} if config else {}


def write_generation_config(model_path: Path, folder: Path, eos: Iterable[int], pad: int | None) -> None:
    """The base model's generation settings, in which each of the token ids `eos` ends generation as well.

    A model that was trained to end its turns with a token that generation does not stop at would never stop.
    """
    config = json.loads((model_path / CONFIG).read_text(encoding="utf-8"))
    path = model_path / GENERATION
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    settings.pop("_from_model_config", None)  # would let transformers replace it by what the model's configuration says
    if not path.exists() and config.get("bos_token_id") is not None:
        settings["bos_token_id"] = config["bos_token_id"]
    known = settings.get("eos_token_id", config.get("eos_token_id"))
    ids = list(dict.fromkeys([*eos, *_listed(known)]))
    if ids:
        settings["eos_token_id"] = ids if len(ids) > 1 else ids[0]
    if settings.get("pad_token_id") is None and pad is not None:
        settings["pad_token_id"] = pad
    _write(folder / GENERATION, settings)


def _listed(ids: int | list[int] | None) -> list[int]:
    return [] if ids is None else ids if isinstance(ids, list) else [ids]


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
