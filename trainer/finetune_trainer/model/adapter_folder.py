"""The folder of a LoRA adapter that training starts from: looked at, brought here, and what merging takes of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from finetune_trainer.errors import DataError, FinetuneError
from finetune_trainer.model.fetch import locked
from finetune_trainer.model.folder import INDEX, SMALL_FILES
from finetune_trainer.model.hub import download_named
from finetune_trainer.model.mirror import mirror
from finetune_trainer.spec import AdapterUse, FineTuneJob, LoRA
from finetune_trainer.store import ObjectNotFound, open_store

FIELD = "spec.model.adapter.uri"
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
HEAD = "config.json"
TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
FILES = (CONFIG, WEIGHTS, HEAD, "manifest.json", *TOKENIZER)
"""What is read of an adapter's folder. When a job of ours has written it, the manifest says where it comes from, and
`HEAD` what the head of a classifier scores.
"""

PLAIN = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "init_lora_weights": (True, False, None, "gaussian", "eva"),
    "layer_replication": (None,),
    "alora_invocation_tokens": (None,),
}
"""What an adapter for the model's own weights may say of itself, where it says it; anything else changes other weights,
or its meaning."""


def look(job: FineTuneJob) -> None:
    """Compare what an adapter says of itself with the manifest, before any worker; the hub is left to ranks.

    Raises DataError, StorageError.
    """
    start = job.spec.model.adapter
    if start is None or start.uri.startswith("hf://"):
        return
    with _about():
        store = open_store(start.uri)
        try:
            description = json.loads(store.get(CONFIG))
            store.head(WEIGHTS)
        except ObjectNotFound as error:
            raise _no_adapter(start.uri) from error
    check_description(description, start.uri, job.spec.method.lora if start.use is AdapterUse.CONTINUE else None)


def fetch_adapter(uri: str, cache_dir: Path, token: str | None = None) -> Path:
    """A local folder with the adapter's files, read once per node. Raises DataError, StorageError."""
    with _about():
        if uri.startswith("file://"):
            folder = Path(uri.removeprefix("file://"))
        elif uri.startswith("hf://"):
            folder = download_named(uri, cache_dir, token, FILES)
        else:
            folder = cache_dir / f"adapter-{sha256(uri.encode()).hexdigest()[:12]}"
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder / ".lock"):
                store = open_store(uri)
                mirror(store, [info for info in store.list(recursive=False) if _wanted(info.key)], folder)
    if not (folder / CONFIG).exists() or not (folder / WEIGHTS).exists():
        raise _no_adapter(uri)
    return folder


def check_description(description: Mapping[str, Any], uri: str, lora: LoRA | None) -> None:
    """DataError for an adapter that is not a plain LoRA, or not the one that `lora`, if given, describes."""
    for name, known in PLAIN.items():
        if (found := description.get(name, known[0])) not in known:
            raise DataError(
                f"{FIELD}: the adapter at {uri} has {name}: {json.dumps(found)}, which cannot be started from: write a "
                "plain LoRA adapter for the model's own weights (peft's save_pretrained converts others with "
                "path_initial_model_for_weight_conversion)"
            )
    if lora is None:
        return
    for field, name in {"rank": "r", "alpha": "lora_alpha", "dora": "use_dora", "rslora": "use_rslora"}.items():
        theirs, mine = description.get(name) or False, getattr(lora, field)
        if theirs != mine:
            raise DataError(
                f"spec.method.lora.{field}: is {json.dumps(mine)}, and the adapter at {uri} has {json.dumps(theirs)}: "
                "write that"
            )


def copy_small_files(model_path: Path, adapter: Path, folder: Path) -> None:
    """Give `folder` all but the weights of the model with the adapter merged into it, where it is not there yet."""
    for file in _small_files(model_path, adapter):
        if not (folder / file.name).exists():
            shutil.copy(file, folder / file.name)


def small_files_digest(model_path: Path, adapter: Path) -> str:
    """SHA-256 of all but the weights that a model with the adapter merged into it is made from: scales and tokens."""
    text = sha256()
    own = [file for name in (CONFIG, HEAD) if (file := adapter / name).exists()]
    for file in (*own, *_small_files(model_path, adapter)):
        text.update(f"{file.name} {file.stat().st_size}\n".encode() + file.read_bytes())
    return text.hexdigest()


def _small_files(model_path: Path, adapter: Path) -> list[Path]:
    """What the merged model has beside its weights; tokenizer and template are the adapter's, if it has any."""
    tokenizer = adapter if (adapter / "tokenizer.json").exists() else model_path
    found: dict[str, Path] = {}
    for source, patterns in ((tokenizer, TOKENIZER), (model_path, SMALL_FILES)):
        for file in sorted(source.iterdir()):
            if any(fnmatch(file.name, pattern) for pattern in patterns) and file.name != INDEX:
                found.setdefault(file.name, file)
    return list(found.values())


def weights_digest(folder: Path) -> str:
    """SHA-256 of an adapter's weights."""
    with (folder / WEIGHTS).open("rb") as weights:
        return file_digest(weights, "sha256").hexdigest()


def _wanted(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in FILES)


def _no_adapter(uri: str) -> DataError:
    return DataError(
        f"{FIELD}: {uri} has no {CONFIG} with {WEIGHTS}: write the folder of a LoRA adapter in PEFT's layout; a whole "
        "model, merged or not, is written as spec.model.uri"
    )


@contextmanager
def _about() -> Iterator[None]:
    """Name the adapter's field in what a store or a hub says."""
    try:
        yield
    except FinetuneError as error:
        text = str(error)
        raise type(error)(
            text if text.startswith(FIELD) else f"{FIELD}: {text.removeprefix('spec.model.uri: ')}"
        ) from error
