"""What a model folder must hold before anything of it is loaded: safetensors weights, a plain config, no code."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from finetune_trainer.errors import DataError

ADAPTER = "adapter_config.json"
CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
UNSAFE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf")
# Everything but weights that transformers reads from a model folder (tokenizer, templates, generation settings).
SMALL_FILES = ("*.json", "*.jinja", "*.model", "*.tiktoken", "merges.txt", "vocab.txt")
# One of these holds the vocabulary of every tokenizer that transformers makes a fast one of.
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model", "*.tiktoken")


def check_names(uri: str, names: Collection[str]) -> None:
    """Look at a model by the names of its files alone, before any is read.

    DataError when there is no config, or no weights that can be read safely.
    """
    if ADAPTER in names:
        raise _adapter(uri)
    if CONFIG not in names:
        raise DataError(
            f"spec.model.uri: {uri} has no {CONFIG}: write the address of a folder in the Hugging Face layout"
        )
    if SINGLE not in names and INDEX not in names:
        raise DataError(f"spec.model.uri: {uri} {_why_no_weights(set(names))}")


def check_vocabulary(uri: str, names: Collection[str]) -> None:
    """DataError when none of a model's files, by their names, can be its tokenizer."""
    if not any(fnmatch(name, pattern) for name in names for pattern in VOCABULARIES):
        raise DataError(f"spec.model.uri: {uri} has no tokenizer: save it beside the weights (tokenizer.json)")


def check_config(folder: Path, uri: str) -> dict[str, Any]:
    """The folder's `config.json`; DataError when it is missing, broken, or asks for something that is not run here.

    Refused are `auto_map` (Python code that comes with the weights), quantised weights, and a weights file of its own
    naming, which could lie outside of the folder.
    """
    if (folder / ADAPTER).exists():
        raise _adapter(uri)
    config = read_json(folder / CONFIG, uri)
    for name in (CONFIG, "tokenizer_config.json"):
        if (folder / name).exists() and _has_key(read_json(folder / name, uri), "auto_map"):
            raise DataError(
                f"spec.model.uri: {uri}/{name} has `auto_map`, which runs Python code that comes with the weights: "
                "use an architecture that transformers has built in"
            )
    if _has_key(config, "quantization_config"):
        raise DataError(f"spec.model.uri: {uri} holds quantised weights: write a model in bfloat16, float16 or float32")
    if "transformers_weights" in config:
        raise DataError(f"spec.model.uri: {uri}/{CONFIG} has `transformers_weights`: name the weights {SINGLE} instead")
    return config


def weight_files(folder: Path, uri: str, present: Iterable[str]) -> list[str]:
    """Names of the safetensors files that make up the model, given the file names `present` where it comes from.

    The index, if there is one, must already lie in `folder`. DataError names every missing shard, an index that points
    outside of the folder, and the remedy when there are only weights that need unpickling.
    """
    names = set(present)
    wanted = indexed_weights(folder, uri)
    missing = [name for name in wanted if name not in names]
    if missing and INDEX in names:
        raise DataError(f"spec.model.uri: {uri} lacks {', '.join(missing)}, which {INDEX} names: copy all files of it")
    if missing:
        raise DataError(f"spec.model.uri: {uri} {_why_no_weights(names)}")
    return wanted


def indexed_weights(folder: Path, uri: str) -> list[str]:
    """The weight files that `folder` should hold: those of its index if it has one, else the single file."""
    return sorted(_shards_of_index(folder, uri)) if (folder / INDEX).exists() else [SINGLE]


def check_folder(folder: Path, uri: str) -> list[str]:
    """Check a complete local folder and return its weight files; raises as `check_config` and `weight_files`."""
    if not folder.is_dir():
        raise DataError(f"spec.model.uri: {uri} is no folder: write the folder that holds {CONFIG}")
    check_config(folder, uri)
    return weight_files(folder, uri, [entry.name for entry in folder.iterdir()])


def read_json(path: Path, uri: str) -> dict[str, Any]:
    """A JSON object from a file of the model; DataError names the file when it is missing or no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"spec.model.uri: {uri} has no {path.name}: write a folder in the Hugging Face layout"
        ) from None
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(f"spec.model.uri: {uri}/{path.name} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"spec.model.uri: {uri}/{path.name} must be a JSON object, not a {type(content).__name__}")
    return content


def _shards_of_index(folder: Path, uri: str) -> set[str]:
    weight_map = read_json(folder / INDEX, uri).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise DataError(f"spec.model.uri: {uri}/{INDEX} has no `weight_map`: save the model again")
    shards = set(weight_map.values())
    for shard in shards:
        if not isinstance(shard, str) or PurePosixPath(shard).name != shard or not shard.endswith(".safetensors"):
            raise DataError(
                f"spec.model.uri: {uri}/{INDEX} names {shard!r}: shards must be plain *.safetensors names in its folder"
            )
    return shards


def _adapter(uri: str) -> DataError:
    return DataError(
        f"spec.model.uri: {uri} holds a LoRA adapter: write the folder of the base or a merged model, and this one as "
        "spec.model.adapter.uri to start from it"
    )


def _why_no_weights(names: set[str]) -> str:
    tensors = sorted(name for name in names if name.endswith(".safetensors"))
    if tensors:
        return f"has {', '.join(tensors[:4])} but no {INDEX}: add the index, or name a single file {SINGLE}"
    unsafe = sorted(name for name in names if name.endswith(UNSAFE_SUFFIXES))
    if unsafe:
        return (
            f"has only {', '.join(unsafe[:4])}, which cannot be read safely: convert to safetensors, for instance with "
            "`AutoModelForCausalLM.from_pretrained(folder).save_pretrained(other_folder)`"
        )
    return f"has no {SINGLE} and no {INDEX}: write a folder in the Hugging Face layout"


def _has_key(value: object, key: str) -> bool:
    if isinstance(value, dict):
        return key in value or any(_has_key(inner, key) for inner in value.values())
    return isinstance(value, list) and any(_has_key(inner, key) for inner in value)
