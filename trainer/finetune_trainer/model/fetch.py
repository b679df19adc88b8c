"""From `spec.model.uri` to a local folder that can be loaded: read once per node, checked before anything uses it."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from finetune_trainer.errors import StorageError
from finetune_trainer.model.cache import node_cache
from finetune_trainer.model.folder import SMALL_FILES, check_config, check_folder, check_names, weight_files
from finetune_trainer.model.hub import download, download_small
from finetune_trainer.model.mirror import Counter, Progress, mirror, prune
from finetune_trainer.store import ObjectInfo, ObjectStore, open_store


def fetch_model(uri: str, cache_dir: Path, token: str | None = None, progress: Progress | None = None) -> Path:
    """The local folder of the model at `uri`; every rank may call this, one per node does the reading.

    `file:///folder` is used in place. `s3://bucket/prefix` is streamed into `cache_dir` under a file lock: resumed per
    file, complete files skipped by size and version; the weights into the node's cache, where there is one
    (`model.cache`), and linked from there. `hf://org/name@revision` goes through huggingface_hub, with
    `token`.
    `progress(bytes here, bytes in all)` is called while weights are read, by one thread at a time.

    Raises DataError when the folder is no model in the Hugging Face layout with safetensors weights and without code
    of its own (`folder.check_config`, `folder.weight_files`), StorageError when reading fails.
    """
    if uri.startswith("file://"):
        folder = Path(uri.removeprefix("file://"))
        check_folder(folder, uri)
        return folder
    cache_dir.mkdir(parents=True, exist_ok=True)
    with locked(cache_dir / f"{_name(uri)}.lock"):
        if uri.startswith("hf://"):
            return download(uri, cache_dir, token, progress)
        try:
            return _from_store(uri, open_store(uri), cache_dir / _name(uri), progress)
        except StorageError as error:
            raise type(error)(f"spec.model.uri: {error}") from error


def fetch_tokenizer(uri: str, cache_dir: Path, token: str | None = None) -> Path:
    """The local folder of the model at `uri` without its weights, in the places of `fetch_model`, which completes it.

    Raises DataError when there is no plain model in the Hugging Face layout, StorageError when reading fails.
    """
    if uri.startswith("file://"):
        folder = Path(uri.removeprefix("file://"))
        check_config(folder, uri)
        return folder
    cache_dir.mkdir(parents=True, exist_ok=True)
    with locked(cache_dir / f"{_name(uri)}.lock"):
        if uri.startswith("hf://"):
            return download_small(uri, cache_dir, token)
        folder = cache_dir / _name(uri)
        try:
            store = open_store(uri)
            objects = {info.key: info for info in store.list(recursive=False)}
            check_names(uri, objects)
            mirror(store, _small(objects), folder)
            prune(folder, objects)
        except StorageError as error:
            raise type(error)(f"spec.model.uri: {error}") from error
        check_config(folder, uri)
        return folder


def _from_store(uri: str, store: ObjectStore, folder: Path, progress: Progress | None) -> Path:
    objects = {info.key: info for info in store.list(recursive=False)}
    check_names(uri, objects)
    mirror(store, _small(objects), folder)
    check_config(folder, uri)
    weights = weight_files(folder, uri, objects)
    wanted = [objects[name] for name in weights]
    counter = Counter(sum(info.size for info in [*_small(objects), *wanted]), progress)
    left = node_cache(os.environ).link(store, wanted, folder, counter)
    mirror(store, [*_small(objects), *left], folder, counter)
    prune(folder, objects)
    return folder


def _small(objects: dict[str, ObjectInfo]) -> list[ObjectInfo]:
    return [info for key, info in objects.items() if any(fnmatch(key, pattern) for pattern in SMALL_FILES)]


def _name(uri: str) -> str:
    """A folder name that tells a person which model it is and that no other address shares."""
    return f"{uri.rstrip('/').rpartition('/')[2]}-{hashlib.sha256(uri.encode()).hexdigest()[:12]}"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`; the kernel drops it when the process ends, however it ends."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
