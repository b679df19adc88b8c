"""The sizes of the model at an address, read from its config.json alone."""

from __future__ import annotations

import json

from finetune_trainer.errors import DataError
from finetune_trainer.estimate import ModelShape, UnknownArchitecture, known_shape, read_shape
from finetune_trainer.model.folder import CONFIG
from finetune_trainer.store import ObjectNotFound, open_store


def shape_of_model(uri: str) -> ModelShape | None:
    """The shape of a model at `s3://` or `file://`, or of a known one on the hub; None for others on the hub.

    Raises UnknownArchitecture, DataError where there is no config.json, and StorageError.
    """
    if uri.startswith("hf://"):
        return known_shape(uri)
    try:
        config = json.loads(open_store(uri).get(CONFIG))
    except ObjectNotFound as error:
        raise DataError(f"spec.model.uri: {uri} has no {CONFIG}: write a folder in the Hugging Face layout") from error
    except ValueError as error:
        raise DataError(f"spec.model.uri: {uri}/{CONFIG} is no JSON: {error}") from error
    if not isinstance(config, dict):
        raise UnknownArchitecture(f"{CONFIG} is no JSON object")
    return read_shape(config)
