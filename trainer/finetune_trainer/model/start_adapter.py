"""A LoRA adapter that training starts from: brought here, compared with the manifest, and put in its place."""

from __future__ import annotations

import json
import shutil
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
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from finetune_trainer.errors import DataError, FinetuneError
from finetune_trainer.model.coverage import adapted_layers
from finetune_trainer.model.fetch import locked
from finetune_trainer.model.folder import INDEX, SMALL_FILES
from finetune_trainer.model.hub import download_named
from finetune_trainer.model.keys import SCORE_WEIGHT
from finetune_trainer.model.libraries import deepspeed
from finetune_trainer.model.load import full_shape, is_partitioned, load_config
from finetune_trainer.model.mirror import mirror
from finetune_trainer.model.score import check_labels, classifier
from finetune_trainer.spec import AdapterUse, FineTuneJob, LoRA
from finetune_trainer.store import ObjectNotFound, open_store

FIELD = "spec.model.adapter.uri"
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
HEAD = "config.json"
ADAPTED_SCORE = f"base_model.model.{SCORE_WEIGHT}"
"""The trained score head among the weights of an adapter."""
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


@torch.no_grad()
def load_adapter(module: Any, folder: Path, uri: str, lora: LoRA) -> None:
    """Give what the PeftModel `module` trains the values in an adapter's folder; collective with ZeRO-3.

    A score head that the adapter does not have is left as it is. Raises DataError unless the adapter has exactly these
    weights, of these shapes and scales, and a head of these labels.
    """
    config: Any = PeftConfig.from_pretrained(str(folder))
    check_description(json.loads((folder / CONFIG).read_text(encoding="utf-8")), uri, lora)
    trained = {name: one for name, one in module.named_parameters() if one.requires_grad}
    places: dict[str, Any] = get_peft_model_state_dict(module, trained, "default", save_embedding_layers=False)
    with safe_open(folder / WEIGHTS, framework="pt") as stored:
        shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
        if ADAPTED_SCORE in shapes and classifier(module) is None:
            raise DataError(
                f"{FIELD}: the adapter at {uri} has a score head, of Reward or Classification, and this job trains a "
                "language model, without one: write the adapter of such a job, or that adapter's spec.objective.type"
            )
        if ADAPTED_SCORE not in shapes:
            places.pop(ADAPTED_SCORE, None)
        elif (head := classifier(module)) is not None and (folder / HEAD).exists():
            check_labels(load_config(folder), tuple(head.config.id2label.values()), FIELD, uri)
        _check_same(shapes, {name: tuple(full_shape(one)) for name, one in places.items()}, config, uri)
        _check_scales(module, config, uri)
        for name, parameter in places.items():
            partitioned = is_partitioned(parameter)
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=partitioned):
                parameter.copy_(stored.get_tensor(name))


def check_tokens(job: FineTuneJob, folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """DataError when added tokens have other ids than in the tokenizer beside an adapter that is trained on.

    The adapter's embeddings would go to other tokens than they were trained for.
    """
    start, file = job.spec.model.continued_adapter, folder / "tokenizer.json"
    if start is None or not job.spec.model.added_tokens or not file.exists():
        return
    theirs = Tokenizer.from_file(str(file))
    for token in job.spec.model.added_tokens:
        if (there := theirs.token_to_id(token)) != (here := tokenizer.convert_tokens_to_ids(token)):
            raise DataError(
                f"spec.model.addedTokens: {token!r} is token {here} here, and {'none' if there is None else there} of "
                f"the adapter's at {start.uri}: write the tokens of the job that trained it, in its order"
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
