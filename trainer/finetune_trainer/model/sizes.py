"""The sizes of the model at an address, read from its small files alone."""

from __future__ import annotations

import json
from math import prod
from typing import Any

from finetune_trainer.errors import DataError
from finetune_trainer.estimate import ModelShape, UnknownArchitecture, known_shape, read_shape
from finetune_trainer.model.folder import CONFIG, INDEX, SINGLE
from finetune_trainer.store import ObjectNotFound, ObjectStore, open_store

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "float32": 4, "float16": 2, "bfloat16": 2}
MOST_HEADER = 100_000_000  # bytes; what safetensors itself reads at most


def shape_of_model(uri: str) -> ModelShape | None:
    """The shape of a model at `s3://` or `file://`, or of a known one on the hub; None for others on the hub.

    Raises UnknownArchitecture, DataError where there is no config.json, and StorageError.
    """
    return known_shape(uri) if uri.startswith("hf://") else read_shape(_config(open_store(uri)))


def sizes_of_model(uri: str) -> ModelShape | int | None:
    """The shape, or for architectures without a formula the number of parameters; None where neither is told."""
    try:
        return shape_of_model(uri)
    except UnknownArchitecture:
        return parameters_of_model(uri)


def parameters_of_model(uri: str) -> int | None:
    """How many parameters the safetensors files hold: by the index and the dtype of the configuration, or by the header
    of the single file. None where they do not tell.
    """
    store = open_store(uri)
    try:
        metadata = json.loads(store.get(INDEX)).get("metadata") or {}
    except ObjectNotFound:
        return _by_header(store)
    except ValueError:
        return None
    if isinstance(exact := metadata.get("total_parameters"), int):
        return exact
    config = _config(store)
    element, size = BYTES.get(str(config.get("dtype") or config.get("torch_dtype"))), metadata.get("total_size")
    return int(size) // element if element and isinstance(size, int | float) else None


def _config(store: ObjectStore) -> dict[str, Any]:
    uri = store.uri
    try:
        config = json.loads(store.get(CONFIG))
    except ObjectNotFound as error:
        raise DataError(f"spec.model.uri: {uri} has no {CONFIG}: write a folder in the Hugging Face layout") from error
    except ValueError as error:
        raise DataError(f"spec.model.uri: {uri}/{CONFIG} is no JSON: {error}") from error
    if not isinstance(config, dict):
        raise DataError(f"spec.model.uri: {uri}/{CONFIG} must be a JSON object, not a {type(config).__name__}")
    return config


def _by_header(store: ObjectStore) -> int | None:
    """The format: 8 bytes of length, little-endian, then JSON of names, dtypes and shapes."""
    try:
        length = int.from_bytes(store.get(SINGLE, 0, 8), "little")
        header = json.loads(store.get(SINGLE, 8, length)) if length <= MOST_HEADER else {}
        return sum(prod(one["shape"]) for name, one in header.items() if name != "__metadata__") or None
    except (ObjectNotFound, ValueError, KeyError, TypeError, AttributeError):
        return None
