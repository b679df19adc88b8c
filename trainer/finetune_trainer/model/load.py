"""From a checked local folder to a model that holds exactly the folder's weights, whole or partitioned by ZeRO-3."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.integrations.deepspeed import HfDeepSpeedConfig

from finetune_trainer.errors import DataError, Problem, SpecError
from finetune_trainer.model.folder import check_folder
from finetune_trainer.model.keys import (
    SCORE_WEIGHT,
    captured_report,
    causal_model_class,
    check_weights,
    open_weights,
    read_headers,
    without_zero3,
)
from finetune_trainer.model.libraries import deepspeed
from finetune_trainer.model.score import ScoreHead, scoring_class

# What decides how ZeRO-3 partitions at load; batch sizes and the optimizer do not, and may not be known yet.
PARTITIONING_KEYS = ("zero_optimization", "bf16", "fp16", "data_types")
INITIALIZER_RANGE = 0.02
"""Standard deviation of a new score head where the configuration has no `initializer_range`; transformers' default."""


def load_model(
    path: Path,
    *,
    dtype: torch.dtype,
    zero_stage: int = 0,
    ds_config: Mapping[str, Any] | None = None,
    gradient_checkpointing: bool = False,
    uri: str = "",
    head: ScoreHead | None = None,
    quantization: Mapping[str, Any] | None = None,
) -> PreTrainedModel:
    """The causal language model in the folder `path`, in `dtype` (rotary frequencies stay float32), to be trained.

    With `head` it is a sequence classifier with that head on the same weights, a new one unless the folder has it.

    With `zero_stage` 3 every parameter is partitioned over the ranks of the initialised process group while the model
    is built, so that no rank ever holds all of it: `ds_config` is the dictionary that `deepspeed.initialize` will get.
    Rank 0 reads the weights from memory-mapped files, the others receive their part. Collective then; at other stages
    every rank loads the whole model on the CPU.

    Attention is torch's `scaled_dot_product_attention` where the architecture allows it; `config.use_cache` is False,
    without which packed documents leak into each other. With `quantization` (`model.quantize`) linear layers have 4
    bits a weight. Raises DataError naming every missing, unexpected or wrongly shaped weight, before any is read; `uri`
    is what the manifest calls the folder, for messages.
    """
    uri = uri or str(path)
    weights = [path / name for name in check_folder(path, uri)]
    config = load_config(path)
    headers = read_headers(weights)
    model_class = causal_model_class(config, uri) if head is None else scoring_class(config, headers, head, uri)
    if head is None:
        check_weights(config, headers, uri, model_class)
    alive = _zero3_config(ds_config, dtype) if zero_stage == 3 else None
    new = [SCORE_WEIGHT] if head is not None and SCORE_WEIGHT not in headers else []
    with nullcontext() if zero_stage == 3 else without_zero3():  # an older engine may live on in this process
        model = _from_pretrained(model_class, path, config, dtype, new, quantization or {})
    if head is not None and new:
        initialise_score(model, head.seed)
    check_spot(model, weights)
    model.config.use_cache = False
    if gradient_checkpointing:
        _enable_checkpointing(model)
    model.zero3_config = alive  # transformers holds it by a weak reference only
    loaded: PreTrainedModel = model.train()
    return loaded


def load_config(path: Path) -> PreTrainedConfig:
    """The model's configuration; DataError if transformers does not know its type."""
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        raise DataError(f"spec.model.uri: {path}/config.json is not understood by transformers: {error}") from error
    return config


def is_partitioned(parameter: Tensor) -> bool:
    """Whether ZeRO-3 has taken this parameter apart, so that its values must be gathered before they are read."""
    return hasattr(parameter, "ds_id")


def full_shape(parameter: Tensor) -> torch.Size:
    """The weight's shape, also while ZeRO-3 has it partitioned and `parameter.shape` is [0], or in 4 bits."""
    if (quantised := getattr(parameter, "quant_state", None)) is not None:
        return torch.Size(quantised.shape)
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


@torch.no_grad()
def initialise_score(model: PreTrainedModel, seed: int) -> None:
    """Set a new score head to normal values, as transformers does, but the same on every rank, at every ZeRO stage."""
    spread = getattr(model.config.get_text_config(), "initializer_range", INITIALIZER_RANGE)
    digest = hashlib.sha256(f"{seed}/{SCORE_WEIGHT}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
    weight = model.get_parameter(SCORE_WEIGHT)
    values = torch.zeros(full_shape(weight)).normal_(0.0, spread, generator=generator)
    gathered = [weight] if is_partitioned(weight) else []
    with deepspeed.zero.GatheredParameters(gathered, modifier_rank=0, enabled=bool(gathered)):
        weight.copy_(values)


def check_spot(model: nn.Module, files: list[Path]) -> None:
    """Compare one value of every parameter with the file it came from; DataError if it was initialised instead.

    Each rank looks at the first value that it holds, so that this costs nothing next to the load. Parameters that
    transformers fuses from several tensors have no counterpart by name and are left to `check_weights`; so are those in
    4 bits, whose values are not the file's.
    """
    parameters = {name: one for name, one in model.named_parameters() if one.dtype.is_floating_point}
    wrong = []
    for file in files:
        with open_weights(file) as weights:
            shared = [name for name in weights.keys() if name in parameters]  # noqa: SIM118  (not iterable itself)
            wrong += [name for name in shared if not _same_at_one_place(parameters[name], weights.get_slice(name))]
    if wrong:
        raise DataError(f"spec.model.uri: {files[0].parent}: {', '.join(wrong[:8])} differ from the file after loading")


def _same_at_one_place(parameter: Any, stored: Any) -> bool:
    shape = stored.get_shape()
    local, start = parameter.detach(), 0
    if is_partitioned(parameter):
        local = parameter.ds_tensor
        start = local.ds_numel * torch.distributed.get_rank()
    if not shape or local.numel() == 0 or start >= full_shape(parameter).numel():
        return True
    place = torch.unravel_index(torch.tensor(start), shape)
    value = stored[tuple(slice(int(index), int(index) + 1) for index in place)]
    return torch.equal(value.reshape(()).to(parameter.dtype), local.flatten()[0].cpu())


def _zero3_config(ds_config: Mapping[str, Any] | None, dtype: torch.dtype) -> Any:
    if ds_config is None:
        raise ValueError("zero_stage=3 needs the DeepSpeed configuration")
    chosen = {key: ds_config[key] for key in PARTITIONING_KEYS if key in ds_config}
    bf16 = bool(chosen.get("bf16", {}).get("enabled"))
    if bf16 != (dtype == torch.bfloat16):
        raise ValueError(f"bf16.enabled is {bf16} in the DeepSpeed configuration, but the model is loaded as {dtype}")
    make: Any = HfDeepSpeedConfig  # its constructor is untyped
    return make(chosen | {"train_micro_batch_size_per_gpu": 1})


def _enable_checkpointing(model: Any) -> None:
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})  # reentrant checkpoints lose the gradient of frozen models' adapters
    except ValueError as error:
        message = f"{error} Write Off, or another model"
        raise SpecError([Problem("spec.training.gradientCheckpointing", "On", message)]) from error


def _from_pretrained(
    model_class: Any,
    path: Path,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    new: Collection[str],
    options: Mapping[str, Any],
) -> Any:
    """The model, whole but for the weights `new`, which are left for the caller to set."""
    with captured_report() if new else nullcontext():
        model, info = model_class.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            attn_implementation="sdpa" if model_class._supports_sdpa else "eager",  # eager: Gemma 2's soft-capping
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    left = sorted(set(info["missing_keys"]) - set(getattr(model, "all_tied_weights_keys", {})) - set(new))
    if left or info["error_msgs"]:
        raise DataError(f"spec.model.uri: {path} was not loaded whole: missing {left}; {'; '.join(info['error_msgs'])}")
    return model
