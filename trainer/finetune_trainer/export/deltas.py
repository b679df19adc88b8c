"""What an adapter adds to the base model's weights, tensor by tensor, under the names that its files have."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import Linear, ParamWrapper
from safetensors.torch import load_file
from torch import Tensor

from finetune_trainer.errors import FinetuneError
from finetune_trainer.export.adapter import ADAPTER, WEIGHTS
from finetune_trainer.export.full import as_published
from finetune_trainer.model.coverage import base_name
from finetune_trainer.model.folder import indexed_weights
from finetune_trainer.model.keys import SCORE_WEIGHT, published_class, read_headers, without_zero3
from finetune_trainer.model.load import load_config

ADAPTED_SCORE = f"base_model.model.{SCORE_WEIGHT}"
"""The trained score head among the weights of an adapter."""


class CannotMerge(FinetuneError):
    """The adapter does not fit into the base model's files, or what came out is not what the adapter does."""

    reason = "CannotMerge"
    retryable = False


class Deltas:
    """The adapter in the folder `adapter`, laid over the files of the model in `model_path`, whose headers are read.

    transformers may hold a weight under another name or fused with others (experts); how the files have it is asked of
    transformers itself, whose conversions are linear, so that they hold for differences too. Raises CannotMerge when
    the files lack a weight that has an adapter: an output embedding that is tied to the input's.
    """

    def __init__(self, model_path: Path, adapter: Path) -> None:
        headers = read_headers([model_path / name for name in indexed_weights(model_path, str(model_path))])
        with without_zero3():
            self._base = _without_memory(model_path, headers)
            self._layers = dict(_layers(_adapted(self._base, adapter)))
        self._sources = {
            name: layer
            for layer in self._layers
            for name in as_published(self._base, {layer: torch.empty(_shape(self._layers[layer]), device="meta")})
        }
        self._recent: dict[str, dict[str, Tensor]] = {}  # experts come one by one out of one fused delta
        strange = sorted(set(self._sources) - set(headers))
        if strange:
            raise CannotMerge(
                f"{', '.join(strange[:8])} has an adapter and no weight of its own in {model_path} (an output "
                "embedding that is tied to the input's?): write spec.output.format: Adapter and run the job again, it "
                "exports without training again"
            )

    def output_embedding(self) -> str | None:
        """Name of the weight that makes logits, where the files may have one: no part of a classifier."""
        head = getattr(self._base, "get_output_embeddings", lambda: None)()
        return next((f"{name}.weight" for name, module in self._base.named_modules() if module is head), None)

    def of(self, names: Collection[str]) -> dict[str, Tensor]:
        """What to add to each of the file's weights `names` that has an adapter: float32, of the weight's shape."""
        layers = dict.fromkeys(self._sources[name] for name in names if name in self._sources)
        if layers:
            self._recent = {layer: self._recent.get(layer) or self._published(layer) for layer in layers}
        return {name: self._recent[layer][name] for name in names if (layer := self._sources.get(name))}

    def _published(self, layer: str) -> dict[str, Tensor]:
        return as_published(self._base, {layer: _delta(self._layers[layer])})


def _without_memory(model_path: Path, headers: dict[str, Tensor]) -> Any:
    config = load_config(model_path)
    load: Any = published_class(config, headers, str(model_path)).from_pretrained
    return load(None, config=config, state_dict=headers, device_map="meta", dtype=torch.float32)


def _adapted(base: Any, adapter: Path) -> Any:
    """The adapter in memory around a base without; peft's own loading would move it to the base's device."""
    config: Any = PeftConfig.from_pretrained(str(adapter))
    config.modules_to_save = None  # a score head is taken as it is
    model: Any = PeftModel(base, config, ADAPTER, low_cpu_mem_usage=True)
    stored = {name: value for name, value in load_file(adapter / WEIGHTS).items() if name != ADAPTED_SCORE}
    named = {f"{name.removesuffix('.weight')}.{ADAPTER}.weight": value.float() for name, value in stored.items()}
    unexpected = model.load_state_dict(named, strict=False, assign=True).unexpected_keys
    if unexpected:
        raise CannotMerge(f"{adapter / WEIGHTS} has weights that the model has no place for: {unexpected[:8]}")
    return model


def _layers(model: Any) -> Iterator[tuple[str, Any]]:
    for path, module in model.named_modules():
        if isinstance(module, LoraLayer):
            own = module.parameter_name if isinstance(module, ParamWrapper) else "weight"
            yield f"{base_name(path)}.{own}", module


def _shape(layer: Any) -> torch.Size:
    weight: Tensor = _untyped(layer).get_param() if isinstance(layer, ParamWrapper) else layer.get_base_layer().weight
    return weight.shape


@torch.no_grad()
def _delta(layer: Any) -> Tensor:
    """Float32. A ParamWrapper's own method would move it to its weight, which has no memory here."""
    if isinstance(layer, ParamWrapper) and layer.num_experts > 1:
        left, right, scaling = _untyped(layer).get_delta_factors(ADAPTER)
        stacked: Tensor = (left @ right) * scaling
        return stacked
    kind: Any = Linear if isinstance(layer, ParamWrapper) else type(layer)
    delta: Tensor = kind.get_delta_weight(layer, ADAPTER)
    return delta


def _untyped(layer: ParamWrapper) -> Any:
    return layer
