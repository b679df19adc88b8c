"""What test_fingerprint.py runs on several ranks at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.distributed as dist

from finetune_trainer.build import agree_on_model
from finetune_trainer.engine.collectives import ControlGroup
from finetune_trainer.errors import DataError
from finetune_trainer.model.tokenizer import load_tokenizer

NAMES = {"same": "same", "different": "model"}


def agree(payload: dict[str, Any]) -> dict[str, Any]:
    """What this rank is told when every rank has the same copy of a model, and when they differ."""
    dist.init_process_group("gloo")
    control = ControlGroup.create(60)
    folders = {kind: Path(payload["folder"]) / f"{name}-{control.rank}" for kind, name in NAMES.items()}
    found = {kind: _told(folder, control) for kind, folder in folders.items()}
    dist.destroy_process_group()
    return found


def _told(folder: Path, control: ControlGroup) -> str | None:
    try:
        agree_on_model("hf://org/llama", folder, load_tokenizer(folder), control)
    except DataError as error:
        return str(error)
    return None
