"""All weights of the model, in the layout that its architecture is published in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion

from finetune_trainer.engine.collectives import ControlGroup
from finetune_trainer.export.config import head_config, write_config
from finetune_trainer.export.gather import gathered, weights_to_save
from finetune_trainer.export.shards import SHARD_BYTES, ShardWriter
from finetune_trainer.model.load import full_shape


def export_full(
    module: nn.Module, model_path: Path, folder: Path, control: ControlGroup, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write the weights of `module` and their `config.json` into `folder` on rank 0; collective.

    Weights keep the dtype they were trained in and get the names that `save_pretrained` gives them. Raises StorageError
    or IncompleteWeights on every rank.
    """
    writer = ShardWriter(folder, shard_bytes) if control.is_main else None

    def take(weights: dict[str, Tensor]) -> None:
        if writer is not None:
            writer.add(as_published(module, weights))

    for weights in gathered(weights_to_save(module), keep=control.is_main):
        control.agree(lambda weights=weights: take(weights))  # type: ignore[misc]
    head, rows = head_config(module), full_shape(_untyped(module).get_input_embeddings().weight)[0]
    control.agree(lambda: write_config(model_path, folder, writer.finish(), rows, head) if writer is not None else None)


def _untyped(module: nn.Module) -> Any:
    return module


def as_published(module: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of whole modules under the names and in the pieces of published checkpoints (experts one by one)."""
    converted: dict[str, Tensor] = revert_weight_conversion(module, weights) if weights else {}
    return converted
