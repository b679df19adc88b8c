"""The weights in the format that the manifest asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from finetune_trainer.engine.collectives import ControlGroup
from finetune_trainer.export.adapter import export_adapter
from finetune_trainer.export.disk import writing
from finetune_trainer.export.full import export_full
from finetune_trainer.export.merge import export_merged
from finetune_trainer.export.merge_check import check_merged
from finetune_trainer.spec import OutputFormat, Precision
from finetune_trainer.spec.job import JobSpec


def export_weights(spec: JobSpec, module: Any, model_path: Path, folder: Path, control: ControlGroup) -> dict[str, Any]:
    """Write what `module`, the engine's model, was trained to into `folder` on rank 0; collective.

    `module` is a PeftModel over the model in `model_path` after LoRA, else the model itself. Returns on every rank what
    there is to say of it as JSON: for `Merged` the comparison with the adapter (`merge_check`). Raises StorageError,
    IncompleteWeights or CannotMerge on every rank. The folder's parent is used for what is only needed on the way.
    """
    if spec.output.format == OutputFormat.FULL:
        export_full(module, model_path, folder, control)
        return {}
    if spec.output.format == OutputFormat.ADAPTER:
        export_adapter(module, spec.model.uri, folder, control)
        return {}
    adapter = folder.parent / "adapter"
    control.agree(lambda: _make(adapter) if control.is_main else None)
    export_adapter(module, spec.model.uri, adapter, control)
    dtype = torch.bfloat16 if spec.training.precision == Precision.BF16 else torch.float32
    export_merged(adapter, model_path, folder, control, dtype)
    checks = control.agree(lambda: check_merged(model_path, adapter, folder) if control.is_main else {})
    return {"mergeCheck": checks[0]}


def _make(folder: Path) -> None:
    with writing(folder):
        folder.mkdir()
