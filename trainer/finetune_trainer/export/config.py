"""`config.json` and `generation_config.json` of an exported model: those of the base, with what training changed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from finetune_trainer.model.folder import CONFIG

GENERATION = "generation_config.json"


def write_config(model_path: Path, folder: Path, dtype: torch.dtype, vocabulary: int = 0) -> None:
    """Copy the base model's configuration, with the dtype of the exported weights, which loaders go by.

    `vocabulary` is the number of embeddings, which added tokens may have made more.
    """
    config = json.loads((model_path / CONFIG).read_text(encoding="utf-8"))
    name = str(dtype).removeprefix("torch.")
    config["dtype"] = name
    if "torch_dtype" in config:  # what transformers before 4.56 reads
        config["torch_dtype"] = name
    text = config if "vocab_size" in config else config.get("text_config", {})
    if vocabulary > text.get("vocab_size", vocabulary):
        text["vocab_size"] = vocabulary
    _write(folder / CONFIG, config)


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
