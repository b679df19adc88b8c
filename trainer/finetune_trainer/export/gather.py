"""Whole weights out of an engine's module, a few at a time, however DeepSpeed has them partitioned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from typing import Any

from torch import Tensor, nn

from finetune_trainer.errors import FinetuneError
from finetune_trainer.model.libraries import deepspeed
from finetune_trainer.model.load import full_shape, is_partitioned

Named = tuple[str, Tensor]


class IncompleteWeights(FinetuneError):
    """A weight came out empty or in another shape than the model has; nothing is exported then."""

    reason = "IncompleteWeights"
    retryable = False


def gathered(named: Iterable[Named], *, keep: bool) -> Iterator[dict[str, Tensor]]:
    """Copies of the tensors `named`, whole, on the CPU, in one dictionary per parent module (an attention block).

    Collective under ZeRO-3: every rank iterates to the end, and one parameter at a time is whole on its device. Ranks
    with `keep=False` get empty dictionaries. Raises IncompleteWeights.
    """
    for _, group in groupby(named, key=lambda item: parent_module(item[0])):
        found: dict[str, Tensor] = {}
        for name, tensor in group:
            with _whole(tensor):
                _check(name, tensor)
                if keep:
                    found[name] = tensor.detach().to("cpu", copy=True).contiguous()
        yield found


def weights_to_save(module: nn.Module) -> Iterator[Named]:
    """Every parameter and persistent buffer of a transformers model; of tied weights only the one that is saved."""
    tied = getattr(module, "all_tied_weights_keys", {})
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if name not in tied:
            yield name, parameter
    for path, part in module.named_modules():
        for name, buffer in part.named_buffers(recurse=False):
            if name not in part._non_persistent_buffers_set:
                yield f"{path}.{name}".lstrip("."), buffer


def trained_weights(module: nn.Module) -> Iterator[Named]:
    """Every parameter that requires a gradient, by name."""
    return ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)


def parent_module(name: str) -> str:
    """`model.layers.0.self_attn` of `model.layers.0.self_attn.q_proj.weight`: what transformers may store fused."""
    return name.rsplit(".", 2)[0]


def _whole(tensor: Any) -> AbstractContextManager[Any]:
    return deepspeed.zero.GatheredParameters([tensor]) if is_partitioned(tensor) else nullcontext()


def _check(name: str, tensor: Tensor) -> None:
    """On every rank, so that all of them stop."""
    if tensor.shape != full_shape(tensor) or tensor.numel() == 0:
        raise IncompleteWeights(f"{name} has shape {list(tensor.shape)} instead of {list(full_shape(tensor))}")
