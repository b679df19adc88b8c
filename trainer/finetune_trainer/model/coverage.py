"""What of a model is trained: by kind of weight, so that a silently skipped layer shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from torch import nn
from transformers.pytorch_utils import Conv1D

from finetune_trainer.model.load import full_shape
from finetune_trainer.model.targets import fused_experts, kind_of


@dataclass(frozen=True)
class Kind:
    """Weights of the same name in all layers: how many there are, how many are trained or have an adapter."""

    name: str
    total: int
    trained: int


@dataclass(frozen=True)
class Coverage:
    """Parameters of the base model, parameters that are trained, and each kind of linear or fused expert weight."""

    parameters: int
    trained_parameters: int
    kinds: tuple[Kind, ...]

    @property
    def trainable_share(self) -> float:
        """Trained parameters per parameter of the base model, in [0, 1] for full fine-tuning and usual adapters."""
        return self.trained_parameters / max(1, self.parameters)

    def to_json(self) -> dict[str, Any]:
        """JSON-able, for the audit."""
        return {
            "parameters": self.parameters,
            "trainedParameters": self.trained_parameters,
            "trainableShare": self.trainable_share,
            "kinds": {kind.name: {"total": kind.total, "trained": kind.trained} for kind in self.kinds},
        }

    def __str__(self) -> str:
        lines = [
            f"{self.trained_parameters:,} parameters are trained, {self.trainable_share:.3%} of {self.parameters:,}"
        ]
        width = max((len(kind.name) for kind in self.kinds), default=0)
        return "\n".join([*lines, *(f"  {kind.name:<{width}}  {kind.trained}/{kind.total}" for kind in self.kinds)])


def coverage(model: nn.Module) -> Coverage:
    """The coverage of a model as it stands, with or without adapters, whole or partitioned by ZeRO-3."""
    everything = model.named_parameters(remove_duplicate=False)
    trained = {base_name(name).removesuffix(".weight") for name, weight in everything if weight.requires_grad}
    trained |= adapted_weights(model)
    names = _base_weights(model)
    counted: dict[str, list[int]] = {}
    for base in names.values():
        entry = counted.setdefault(kind_of(base), [0, 0])
        entry[0] += 1
        entry[1] += base in trained
    parameters = dict(model.named_parameters())
    adapters = {name for name in parameters if _is_adapter(name)}
    return Coverage(
        parameters=sum(_size(p) for name, p in parameters.items() if name not in adapters),
        trained_parameters=sum(_size(p) for p in parameters.values() if p.requires_grad),
        kinds=tuple(Kind(name, total, done) for name, (total, done) in sorted(counted.items())),
    )


def adapted_weights(model: nn.Module) -> set[str]:
    """Base names, as in the model without adapters, of modules and fused expert parameters that have an adapter."""
    return set(adapted_layers(model))


def adapted_layers(model: nn.Module) -> dict[str, Any]:
    """peft's layers, by the base name of the module or fused expert parameter that each adapts."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        if isinstance(module, ParamWrapper):
            found[f"{base_name(name)}.{module.parameter_name}".removesuffix(".weight")] = module
        elif isinstance(module, LoraLayer):
            found[base_name(name)] = module
    return found


def base_name(name: str) -> str:
    """The name that a module or parameter inside a PEFT model has in the base model."""
    inside = name.removeprefix("base_model.model.").replace(".base_layer", "").replace(".original_module", "")
    return inside.replace(".modules_to_save.default", "").replace(".token_adapter", "")


def _base_weights(model: nn.Module) -> dict[str, str]:
    """Name of each linear module or fused expert parameter, mapped to its name in the base model."""
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and not _is_adapter(name) and not isinstance(module, LoraLayer)
    ]
    return {name: base_name(name) for name in [*linear, *fused_experts(model)]}


def _is_adapter(name: str) -> bool:
    """Whether a weight stands beside the base model's: its copy that is trained whole, too."""
    return ".lora_" in name or ".modules_to_save." in name or ".trainable_tokens_" in name


def _size(parameter: nn.Parameter) -> int:
    return full_shape(parameter).numel()
