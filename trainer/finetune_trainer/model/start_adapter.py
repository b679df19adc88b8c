"""A LoRA adapter that training starts from: compared with the adapter that was made here, and put in its place."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, get_peft_model_state_dict
from peft.utils.other import get_pattern_key
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from finetune_trainer.errors import DataError
from finetune_trainer.model.adapter_folder import CONFIG, FIELD, HEAD, WEIGHTS, check_description
from finetune_trainer.model.coverage import adapted_layers
from finetune_trainer.model.keys import SCORE_WEIGHT
from finetune_trainer.model.libraries import deepspeed
from finetune_trainer.model.load import full_shape, is_partitioned, load_config
from finetune_trainer.model.score import check_labels, classifier
from finetune_trainer.spec import FineTuneJob, LoRA

ADAPTED_SCORE = f"base_model.model.{SCORE_WEIGHT}"
"""The trained score head among the weights of an adapter."""


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
