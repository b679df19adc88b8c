"""What an adapter adds to the base model's weights, tensor by tensor, under the names that its files have."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
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
from finetune_trainer.model.keys import published_class, read_headers, without_zero3
from finetune_trainer.model.load import load_config
from finetune_trainer.model.start_adapter import ADAPTED_SCORE


class CannotMerge(FinetuneError):
    """The adapter does not fit into the base model's files, or what came out is not what the adapter does."""

    reason = "CannotMerge"
    retryable = False


@dataclass(frozen=True)
class Change:
    """What becomes of one of the file's weights. In float64, so that a rounded sum is the same on any hardware."""

    delta: Tensor | None = None
    magnitude: Tensor | None = None
    """DoRA: the length that each row of weight and delta gets; its axis of length 1 is that of a row."""
    whole: Tensor | None = None
    """A module that was trained whole, perhaps with more rows than the file has."""
    rows: tuple[int, ...] = ()
    """Only these rows of `whole`."""

    def apply(self, weight: Tensor) -> Tensor:
        """The changed weight: in float64, where something is computed."""
        if self.whole is not None:
            return _with_rows(weight, self.rows, self.whole) if self.rows else self.whole
        assert self.delta is not None
        changed = weight.double() + self.delta
        if self.magnitude is None:
            return changed
        axis = 1 if self.magnitude.shape[1] == 1 else 0
        lengths: Tensor = torch.linalg.vector_norm(changed, dim=axis, keepdim=True)
        return changed * (self.magnitude / lengths)


class Deltas:
    """The adapter in the folder `adapter`, laid over the files of the model in `model_path`, whose headers are read.

    transformers may hold a weight under another name or fused with others (experts); how the files have it is asked of
    transformers itself, whose conversions are linear, so that they hold for differences too. Raises CannotMerge when
    the files lack a weight that has an adapter: an output embedding that is tied to the input's.
    """

    def __init__(self, model_path: Path, adapter: Path) -> None:
        headers = read_headers([model_path / name for name in indexed_weights(model_path, str(model_path))])
        stored = load_file(adapter / WEIGHTS)
        lora = {name: value for name, value in stored.items() if ".lora_" in name}
        config: Any = PeftConfig.from_pretrained(str(adapter))
        with without_zero3():
            self._base = _without_memory(model_path, headers)
            others = stored.keys() - lora.keys() - {ADAPTED_SCORE}  # a new head is taken as it is
            beside = _beside({name: stored[name] for name in others}, config)
            self._layers: dict[str, Any] = dict(_layers(_adapted(self._base, config, lora, adapter))) | beside
        self._sources = {
            name: layer
            for layer in self._layers
            for name in as_published(self._base, {layer: torch.empty(_shape(self._layers[layer]), device="meta")})
        }
        self._recent: dict[str, dict[str, Change]] = {}  # experts come one by one out of one fused delta
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

    @property
    def vocabulary(self) -> int:
        """Embeddings that the merged model has; 0 where the adapter trains none of them."""
        embedding = self._base.get_input_embeddings()
        name = next(name for name, module in self._base.named_modules() if module is embedding)
        change = self._layers.get(f"{name}.weight")
        if not isinstance(change, Change) or change.whole is None:
            return 0
        return max(change.rows) + 1 if change.rows else change.whole.shape[0]

    def of(self, names: Collection[str]) -> dict[str, Change]:
        """What becomes of each of the file's weights `names` that has an adapter, or was trained beside adapters."""
        layers = dict.fromkeys(self._sources[name] for name in names if name in self._sources)
        if layers:
            self._recent = {layer: self._recent.get(layer) or self._published(layer) for layer in layers}
        return {name: self._recent[layer][name] for name in names if (layer := self._sources.get(name))}

    def _published(self, layer: str) -> dict[str, Change]:
        source = self._layers[layer]
        if isinstance(source, Change):
            assert source.whole is not None
            whole = as_published(self._base, {layer: source.whole})
            return {name: Change(whole=value, rows=source.rows) for name, value in whole.items()}
        deltas = as_published(self._base, {layer: _delta(source)})
        magnitude = _magnitude(source)
        if magnitude is not None and len(deltas) > 1:
            raise CannotMerge(f"{layer} is several weights in the model's files, whose rows DoRA cannot scale apart")
        return {name: Change(delta=value, magnitude=magnitude) for name, value in deltas.items()}


def _without_memory(model_path: Path, headers: dict[str, Tensor]) -> Any:
    config = load_config(model_path)
    load: Any = published_class(config, headers, str(model_path)).from_pretrained
    return load(None, config=config, state_dict=headers, device_map="meta", dtype=torch.float64)


def _beside(stored: dict[str, Tensor], config: Any) -> dict[str, Change]:
    """What was trained beside the adapters, by its name in the base model: rows of embeddings, whole modules."""
    found = {}
    rows: dict[str, list[int]] = config.trainable_token_indices or {}
    for name, value in stored.items():
        inside = name.removeprefix("base_model.model.")
        module, is_rows, _ = inside.partition(".token_adapter.")
        own = tuple(next(ids for ending, ids in rows.items() if module.endswith(ending))) if is_rows else ()
        found[f"{module}.weight" if is_rows else inside] = Change(whole=value, rows=own)
    return found


def _with_rows(weight: Tensor, rows: Sequence[int], values: Tensor) -> Tensor:
    """`weight` with these rows replaced, and as many more as the highest of them needs, in the wider dtype."""
    weight = weight.to(torch.promote_types(weight.dtype, values.dtype))
    missing = max(0, max(rows) + 1 - weight.shape[0])
    grown = torch.cat([weight, weight.new_zeros(missing, *weight.shape[1:])])
    grown[list(rows)] = values.to(grown.dtype)
    return grown


def _adapted(base: Any, config: Any, lora: dict[str, Tensor], adapter: Path) -> Any:
    """The adapter in memory around a base without; peft's own loading would move it to the base's device."""
    config.modules_to_save = config.trainable_token_indices = None
    model: Any = PeftModel(base, config, ADAPTER, low_cpu_mem_usage=True)
    named = {f"{name.removesuffix('.weight')}.{ADAPTER}.weight": value.double() for name, value in lora.items()}
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
    if isinstance(layer, Change):
        assert layer.whole is not None
        return layer.whole.shape
    weight: Tensor = _untyped(layer).get_param() if isinstance(layer, ParamWrapper) else layer.get_base_layer().weight
    return weight.shape


def _magnitude(layer: Any) -> Tensor | None:
    """DoRA's, as a column, or as a row where the weight is stored transposed."""
    if ADAPTER not in layer.lora_magnitude_vector:
        return None
    lengths: Tensor = layer.lora_magnitude_vector[ADAPTER].weight.detach()
    return lengths[None] if layer.fan_in_fan_out else lengths[:, None]


@torch.no_grad()
def _delta(layer: Any) -> Tensor:
    """Float64. A ParamWrapper's own method would move it to its weight, which has no memory here."""
    if isinstance(layer, ParamWrapper) and layer.num_experts > 1:
        left, right, scaling = _untyped(layer).get_delta_factors(ADAPTER)
        stacked: Tensor = (left @ right) * scaling
        return stacked
    kind: Any = Linear if isinstance(layer, ParamWrapper) else type(layer)
    delta: Tensor = kind.get_delta_weight(layer, ADAPTER)
    return delta


def _untyped(layer: ParamWrapper) -> Any:
    return layer
