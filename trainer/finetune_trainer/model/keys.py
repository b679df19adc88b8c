"""Whether a folder's weights are exactly those of the model, found out before any weight is read.

transformers loads what matches and initialises the rest at random; under ZeRO-3 it does not even report unexpected
names. So every load is rehearsed first: the model is built without memory ("meta" device) and given tensors without
memory, whose names and shapes come from the files' headers, through transformers' own renaming and fusing of weights.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers.integrations.deepspeed as hf_deepspeed
from safetensors import safe_open
from torch import Tensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as _transformers_logging

from finetune_trainer.errors import DataError

transformers_logging: Any = _transformers_logging  # untyped functions
SCORE = "score"
"""Where transformers' classifiers of decoders have the linear layer that reads single positions."""
SCORE_WEIGHT = f"{SCORE}.weight"
SHOWN = 8  # names in a message
REMEDY = "write a folder whose config.json and weights were saved together, or copy all of its files again"


def read_headers(files: list[Path]) -> dict[str, Tensor]:
    """Name to a tensor of the file's shape on the meta device, for every tensor in safetensors `files`.

    DataError names a file that is no safetensors file or that is cut short.
    """
    found: dict[str, Tensor] = {}
    for file in files:
        with open_weights(file) as weights:
            for name in weights.keys():  # noqa: SIM118  (no dictionary: it cannot be iterated)
                shape = weights.get_slice(name).get_shape()
                found[name] = torch.empty(shape, dtype=torch.float32, device="meta")
    return found


@contextmanager
def open_weights(file: Path) -> Iterator[Any]:
    """An open safetensors file; DataError names it if it cannot be read."""
    try:
        weights = safe_open(file, framework="pt")
    except Exception as error:  # safetensors raises its own class, which it does not export to type checkers
        raise DataError(f"spec.model.uri: {file} is no whole safetensors file: copy it again ({error})") from error
    with weights:
        yield weights


def check_weights(
    config: PreTrainedConfig, headers: Mapping[str, Tensor], uri: str, model_class: type[PreTrainedModel]
) -> None:
    """DataError if the weights with these `headers` are not exactly those of `model_class` with this `config`.

    It names what is missing, unexpected, or of another shape. A tied output embedding need not be there.
    """
    load: Any = model_class.from_pretrained  # returns a pair with output_loading_info, which its annotation omits
    with without_zero3(), captured_report() as report:
        try:
            _, info = load(
                None,
                config=config,
                state_dict=dict(headers),
                device_map="meta",
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except RuntimeError as error:
            names = sorted(set(re.findall(r"^(\S+)\s+\| CONVERSION", "\n".join(report), re.MULTILINE)))
            raise DataError(
                f"spec.model.uri: {uri}: weights cannot be fused into those of {model_class.__name__}, because parts "
                f"are missing or of another shape: {_some(names)}; {REMEDY}"
            ) from error
    problems = _problems(info)
    if problems:
        raise DataError(
            f"spec.model.uri: {uri} holds other weights than {model_class.__name__} has: {'; '.join(problems)}; "
            f"{REMEDY}"
        )


def causal_model_class(config: PreTrainedConfig, uri: str) -> type[PreTrainedModel]:
    """The class that transformers maps `config` to; DataError if that architecture is no causal language model."""
    mapping: Any = MODEL_FOR_CAUSAL_LM_MAPPING
    if type(config) not in mapping:
        raise DataError(
            f"spec.model.uri: {uri} is of type {config.model_type!r}, which is no causal language model that "
            "transformers has built in: write a text model such as Llama, Qwen3, Gemma, Mistral or Mixtral"
        )
    found = mapping[type(config)]
    first = found[0] if isinstance(found, tuple) else found
    model_class: type[PreTrainedModel] = first
    return model_class


def published_class(config: PreTrainedConfig, names: Collection[str], uri: str) -> type[PreTrainedModel]:
    """The class of a folder whose weights have these `names`: a classifier if its head is there, else as above."""
    mapping: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    if SCORE_WEIGHT in names and type(config) in mapping:
        found: type[PreTrainedModel] = mapping[type(config)]
        return found
    return causal_model_class(config, uri)


@contextmanager
def without_zero3() -> Iterator[None]:
    """Let transformers build whole or empty models while a ZeRO-3 configuration is alive in this process."""
    alive = hf_deepspeed._hf_deepspeed_config_weak_ref
    hf_deepspeed._hf_deepspeed_config_weak_ref = None
    try:
        yield
    finally:
        hf_deepspeed._hf_deepspeed_config_weak_ref = alive


@contextmanager
def captured_report() -> Iterator[list[str]]:
    """Keep transformers' load report out of the log and hand it over: what it says becomes one error of ours."""
    logger = logging.getLogger("transformers")
    before, level, bars = logger.handlers[:], logger.level, transformers_logging.is_progress_bar_enabled()
    report: list[str] = []
    logger.handlers = [_Collector(report)]
    logger.setLevel(logging.WARNING)
    transformers_logging.disable_progress_bar()
    try:
        yield report
    finally:
        logger.handlers = before
        logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()


class _Collector(logging.Handler):
    def __init__(self, messages: list[str]) -> None:
        super().__init__()
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(record.getMessage())


def _problems(info: Mapping[str, Any]) -> list[str]:
    shapes = {
        f"{name} is {_shape(found)} instead of {_shape(wanted)}" for name, found, wanted in info["mismatched_keys"]
    }
    found = {
        "missing": sorted(info["missing_keys"]),
        "unexpected": sorted(info["unexpected_keys"]),
        "of another shape": sorted(shapes),
    }
    return [f"{kind}: {_some(names)}" for kind, names in found.items() if names]


def _shape(size: torch.Size) -> str:
    return "[" + ", ".join(str(length) for length in size) + "]"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
