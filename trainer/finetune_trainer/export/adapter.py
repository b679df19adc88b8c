"""The adapter alone, as the folder that `PeftModel.from_pretrained` loads."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from finetune_trainer.engine.collectives import ControlGroup
from finetune_trainer.export.config import write_head_config
from finetune_trainer.export.disk import writing
from finetune_trainer.export.gather import IncompleteWeights, gathered, trained_weights
from finetune_trainer.model.coverage import adapted_layers
from finetune_trainer.model.decompose import taken_out

ADAPTER = "default"
WEIGHTS = "adapter_model.safetensors"


def export_adapter(module: Any, base_uri: str, folder: Path, control: ControlGroup) -> None:
    """Write the adapter of the PeftModel `module`, which was trained on the model at `base_uri`; collective.

    Raises StorageError or IncompleteWeights on every rank.
    """
    weights: dict[str, Tensor] = {}
    for found in gathered(trained_weights(module), keep=control.is_main):
        weights |= found
    control.agree(lambda: _write(module, weights, base_uri, folder) if control.is_main else None)


def _write(module: Any, weights: dict[str, Tensor], base_uri: str, folder: Path) -> None:
    weights, config = as_plain_lora(module, weights, copy.deepcopy(module.peft_config[ADAPTER]))
    tensors = get_peft_model_state_dict(module, weights, ADAPTER, save_embedding_layers=False)
    if len(tensors) != len(weights) or not tensors:
        raise IncompleteWeights(
            f"{len(weights)} weights were trained and the adapter would hold {len(tensors)} of them"
        )
    with writing(folder / WEIGHTS):
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config.base_model_name_or_path, config.revision = base_reference(base_uri)
    config.inference_mode = True
    config.save_pretrained(str(folder))
    write_head_config(module, folder)


def as_plain_lora(module: Any, weights: dict[str, Tensor], config: Any) -> tuple[dict[str, Tensor], Any]:
    """Adapters that began as a part of the weights, as such for the weights as published; others as they are.

    W - s B0 A0 + s B A = W + s [B, -B0] [A; A0]: of twice the rank, as peft converts them (`subtract_mutated_init`).
    """
    converted = dict(weights)
    found = {name: layer for name, layer in adapted_layers(module).items() if taken_out(layer) is not None}
    for name, layer in found.items():
        first_down, first_up = layer.taken_out
        down, up = (f"base_model.model.{name}.lora_{part}.{ADAPTER}.weight" for part in "AB")
        share = layer.scaling[ADAPTER] / _scaling(2 * layer.r[ADAPTER], 2 * layer.lora_alpha[ADAPTER], config)
        converted[down] = torch.cat([weights[down], first_down.to(weights[down].dtype)], 0)
        converted[up] = torch.cat([weights[up], -first_up.to(weights[up].dtype)], 1) * share
    if found:
        config.r, config.lora_alpha = 2 * config.r, 2 * config.lora_alpha
        config.rank_pattern = {key: 2 * rank for key, rank in config.rank_pattern.items()}
        config.alpha_pattern = {key: 2 * alpha for key, alpha in config.alpha_pattern.items()}
    return converted, config


def _scaling(rank: int, alpha: int, config: Any) -> float:
    return alpha / math.sqrt(rank) if config.use_rslora else alpha / rank


def base_reference(uri: str) -> tuple[str, str | None]:
    """How peft finds the base model: a folder for `file://`, name and revision for `hf://`, else the address."""
    if uri.startswith("file://"):
        return uri.removeprefix("file://"), None
    if uri.startswith("hf://"):
        name, _, revision = uri.removeprefix("hf://").partition("@")
        return name, revision or None
    return uri, None
