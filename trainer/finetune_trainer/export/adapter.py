"""The adapter alone, as the folder that `PeftModel.from_pretrained` loads."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from peft import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from finetune_trainer.engine.collectives import ControlGroup
from finetune_trainer.export.config import write_head_config
from finetune_trainer.export.disk import writing
from finetune_trainer.export.gather import IncompleteWeights, gathered, trained_weights

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
    tensors = get_peft_model_state_dict(module, weights, ADAPTER, save_embedding_layers=False)
    if len(tensors) != len(weights) or not tensors:
        raise IncompleteWeights(
            f"{len(weights)} weights were trained and the adapter would hold {len(tensors)} of them"
        )
    with writing(folder / WEIGHTS):
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = copy.deepcopy(module.peft_config[ADAPTER])
    config.base_model_name_or_path, config.revision = base_reference(base_uri)
    config.inference_mode = True
    config.save_pretrained(str(folder))
    write_head_config(module, folder)


def base_reference(uri: str) -> tuple[str, str | None]:
    """How peft finds the base model: a folder for `file://`, name and revision for `hf://`, else the address."""
    if uri.startswith("file://"):
        return uri.removeprefix("file://"), None
    if uri.startswith("hf://"):
        name, _, revision = uri.removeprefix("hf://").partition("@")
        return name, revision or None
    return uri, None
