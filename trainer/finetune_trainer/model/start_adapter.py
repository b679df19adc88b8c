"""A LoRA adapter that training starts from: brought here, compared with the manifest, and put in its place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, get_peft_model_state_dict
from peft.utils.other import get_pattern_key
from safetensors import safe_open

from finetune_trainer.errors import DataError, FinetuneError
from finetune_trainer.model.coverage import adapted_layers
from finetune_trainer.model.fetch import locked
from finetune_trainer.model.hub import download_named
from finetune_trainer.model.libraries import deepspeed
from finetune_trainer.model.load import full_shape, is_partitioned
from finetune_trainer.model.mirror import mirror
from finetune_trainer.spec import AdapterUse, FineTuneJob, LoRA
from finetune_trainer.store import ObjectNotFound, open_store

FIELD = "spec.model.adapter.uri"
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
FILES = (CONFIG, WEIGHTS, "manifest.json", *TOKENIZER)
"""What is read of an adapter's folder; the manifest says where it comes from, when a job of ours has written it."""

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


@torch.no_grad()
def load_adapter(module: Any, folder: Path, uri: str, lora: LoRA) -> None:
    """Give what the PeftModel `module` trains the values in an adapter's folder; collective with ZeRO-3.

    Raises DataError unless the adapter has exactly these weights, of these shapes and scales.
    """
    config: Any = PeftConfig.from_pretrained(str(folder))
    check_description(json.loads((folder / CONFIG).read_text(encoding="utf-8")), uri, lora)
    trained = {name: one for name, one in module.named_parameters() if one.requires_grad}
    places: dict[str, Any] = get_peft_model_state_dict(module, trained, "default", save_embedding_layers=False)
    with safe_open(folder / WEIGHTS, framework="pt") as stored:
        shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
        _check_same(shapes, {name: tuple(full_shape(one)) for name, one in places.items()}, config, uri)
        _check_scales(module, config, uri)
        for name, parameter in places.items():
            partitioned = is_partitioned(parameter)
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=partitioned):
                parameter.copy_(stored.get_tensor(name))


def weights_digest(folder: Path) -> str:
    """SHA-256 of an adapter's weights."""
    with (folder / WEIGHTS).open("rb") as weights:
        return file_digest(weights, "sha256").hexdigest()


def _wanted(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in FILES)


def _check_same(
    theirs: Mapping[str, tuple[int, ...]], mine: Mapping[str, tuple[int, ...]], config: Any, uri: str
) -> None:
    problems = []
    if lacking := sorted(mine.keys() - theirs.keys()):
        problems.append(f"it does not have {_some(lacking)}")
    if extra := sorted(theirs.keys() - mine.keys()):
        problems.append(f"it has {_some(extra)}, which this job does not train")
    if changed := sorted(name for name in mine.keys() & theirs.keys() if mine[name] != theirs[name]):
        problems.append(f"{changed[0]} is {list(theirs[changed[0]])} there and {list(mine[changed[0]])} here")
    if problems:
        wanted = sorted(config.target_modules) if isinstance(config.target_modules, set) else config.target_modules
        raise DataError(
            f"spec.method.lora.targetModules: the adapter at {uri} does not fit: {'; '.join(problems)}: write {wanted} "
            "with its perModule and modulesToSave, and the model that it was trained on"
        )


def _check_scales(module: Any, config: Any, uri: str) -> None:
    for name, layer in adapted_layers(module).items():
        alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern.keys(), name), config.lora_alpha)
        if alpha != layer.lora_alpha["default"]:
            mine = layer.lora_alpha["default"]
            raise DataError(
                f"spec.method.lora.perModule: alpha of {name} is {mine}, and the adapter at {uri} has {alpha}: write "
                "that"
            )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


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
