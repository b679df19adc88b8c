"""What a model folder holds, in a few digits, by which a run knows the model it began with and a card names it."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pydantic import BaseModel, ConfigDict

from finetune_trainer.model.folder import CONFIG, indexed_weights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FULL_HASH_BYTES = 2 * 10**9  # some seconds on one core
START_HASH_BYTES = 10**8  # a fraction of a second, at every start and on every rank
CHUNK_BYTES = 2**20
SAMPLES = 64
SAMPLE_BYTES = 4096  # a training step moves nearly every value, so that samples show it
TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
)


class ModelIdentity(BaseModel):
    """SHA-256 of configuration and weights, and of what makes text into tokens; the commit on a hub, for people."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: str
    tokenizer: str
    revision: str | None = None


def identify(model_path: Path, tokenizer: PreTrainedTokenizerFast, added_tokens: Sequence[str] = ()) -> ModelIdentity:
    """The model in a folder, with the tokenizer loaded from it, and chat template and tokens that this one has now."""
    weights = hashlib.sha256((model_path / CONFIG).read_bytes())
    weights.update(fingerprint(model_path, whole_below=START_HASH_BYTES)["sha256"].encode())
    text = tokenizer_digest(model_path, tokenizer, added_tokens)
    return ModelIdentity(weights=weights.hexdigest(), tokenizer=text, revision=hub_revision(model_path))


def tokenizer_digest(model_path: Path, tokenizer: PreTrainedTokenizerFast, added_tokens: Sequence[str] = ()) -> str:
    """SHA-256 of the tokenizer's files in a model folder, of its chat template now, and of what it got beside them."""
    text = hashlib.sha256(json.dumps(tokenizer.chat_template, sort_keys=True).encode())
    for file in sorted(model_path.iterdir()):
        if any(fnmatch(file.name, pattern) for pattern in TOKENIZER_FILES):
            text.update(f"{file.name} {file.stat().st_size}\n".encode() + file.read_bytes())
    if added_tokens:
        text.update(json.dumps(added_tokens).encode())
    return text.hexdigest()


def hub_revision(model_path: Path) -> str | None:
    """The commit that a folder of huggingface_hub's cache holds, by its name; None for any other folder."""
    return model_path.name if model_path.parent.name == "snapshots" else None


def fingerprint(model_path: Path, whole_below: int = FULL_HASH_BYTES) -> dict[str, Any]:
    """SHA-256 of a model's weight files in order of their names, and what was hashed.

    Below `whole_below` bytes it is every byte; above, each file's name, size, safetensors header (names, shapes and
    dtypes) and blocks spread evenly over it: other weights show then, a change of a few values may not.
    """
    files = [model_path / name for name in indexed_weights(model_path, str(model_path))]
    size = sum(file.stat().st_size for file in files)
    whole = size < whole_below
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            for part in _whole(stream) if whole else _sampled(stream, file):
                digest.update(part)
    hashed = "weights" if whole else "names, sizes, headers and samples of the weights"
    return {"bytes": size, "sha256": digest.hexdigest(), "hashed": hashed}


def _whole(stream: BinaryIO) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk


def _sampled(stream: BinaryIO, file: Path) -> Iterator[bytes]:
    """A safetensors file begins with the length of its header as 8 little-endian bytes."""
    size = file.stat().st_size
    yield f"{file.name} {size}\n".encode()
    (length,) = struct.unpack("<Q", stream.read(8))
    yield stream.read(length)
    for number in range(SAMPLES):
        stream.seek(max(0, size - SAMPLE_BYTES) * number // (SAMPLES - 1))
        yield stream.read(SAMPLE_BYTES)
