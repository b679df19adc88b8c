"""A model with an adapter added to it before training: made once per node, and named after what went into it."""

from __future__ import annotations

import shutil
from hashlib import sha256
from pathlib import Path

import torch

from finetune_trainer.errors import DataError
from finetune_trainer.export.deltas import CannotMerge
from finetune_trainer.export.disk import writing
from finetune_trainer.export.merge import merge_files
from finetune_trainer.model.adapter_folder import FIELD, copy_small_files, small_files_digest, weights_digest
from finetune_trainer.model.fetch import locked
from finetune_trainer.model.fingerprint import fingerprint

DONE = ".merged"


def merge_start(model_path: Path, adapter: Path, cache: Path, dtype: torch.dtype) -> Path:
    """The folder of the model in `model_path` with the adapter in the folder `adapter` added, in at least `dtype`.

    The tokenizer is the adapter's, where it brings one, because it may have tokens that the model's has not; everything
    else that is no weight is the model's. Raises DataError when the two do not fit.
    """
    weights = f"{fingerprint(model_path)['sha256']} {weights_digest(adapter)}"
    parts = f"{weights} {small_files_digest(model_path, adapter)} {dtype}"
    folder = cache / f"merged-{sha256(parts.encode()).hexdigest()[:12]}"
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / f"{folder.name}.lock"):
        if not (folder / DONE).exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            try:
                merge_files(adapter, model_path, folder, dtype)
            except (CannotMerge, RuntimeError, ValueError) as error:
                raise DataError(f"{FIELD}: the adapter does not fit the model at spec.model.uri: {error}") from error
            with writing(folder):
                copy_small_files(model_path, adapter, folder)
                (folder / DONE).touch()
    return folder
