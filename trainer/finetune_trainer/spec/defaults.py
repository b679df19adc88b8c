"""What a manifest may leave out or carry along: defaults that depend on other fields, nulls, what the API server adds.

Defaults that depend on nothing stand beside their field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_trainer.spec.objective import OBJECTIVES, ObjectiveType

# Written by the API server or other controllers; they come along with `kubectl get -o yaml`.
SERVER_METADATA = frozenset(
    {
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "generation",
        "managedFields",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
    }
)


def prepare(document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the manifest without nulls, status and server metadata, and with the defaults of `fill_spec`."""
    manifest: dict[str, Any] = drop_nulls({key: value for key, value in document.items() if key != "status"})
    if isinstance(metadata := manifest.get("metadata"), dict):
        manifest["metadata"] = {key: value for key, value in metadata.items() if key not in SERVER_METADATA}
    if isinstance(spec := manifest.get("spec"), dict):
        manifest["spec"] = fill_spec(spec)
    return manifest


def drop_nulls(value: Any) -> Any:
    """A field that is null is a field that is left out, as the API server has it; nulls in lists stay."""
    if isinstance(value, dict):
        return {key: drop_nulls(item) for key, item in value.items() if item is not None}
    return [drop_nulls(item) for item in value] if isinstance(value, list) else value


def fill_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `spec` (camelCase, unvalidated) with what follows from other fields, as if the user had written it.

    - `method.lora`: its defaults, with LoRA and QLoRA; `method.qlora`: its defaults, with QLoRA.
    - `objective.dpo`, `.orpo`, `.kto`, `.reward`, `.classification`: their defaults, with that type; `reference`: Base
      with an adapter on the model itself, else Precomputed with DPO and Copy with KTO.
    - `data.overlong`: Split with CPT, where every token counts, Drop where answers are judged, else Truncate.
    - `checkpoint.keepBest`: 1 when `evaluation.everySteps` is set, so that the best model is not lost, else 0.
    - `evaluation.compareBase`: true when `data.eval` is given, so that a run shows whether it was worth it.
    - `output.format`: Adapter with LoRA and QLoRA, Merged with them where an adapter is merged first, else Full.

    A member that is no mapping is left as it is, for the validation to refuse.
    """
    filled = dict(spec)
    method = _get(spec, "method", "type")
    adapts = method in ("LoRA", "QLoRA")
    if adapts:
        _default(filled, "method", "lora", {})
    if method == "QLoRA":
        _default(filled, "method", "qlora", {})
    _fill_objective(filled)
    if _get(spec, "evaluation", "everySteps") is not None:
        _default(filled, "checkpoint", "keepBest", 1)
    if _get(spec, "data", "eval"):
        filled.setdefault("evaluation", {})
        _default(filled, "evaluation", "compareBase", True)
    _default(filled, "output", "format", _output(spec) if adapts else "Full")
    return filled


def _fill_objective(spec: dict[str, Any]) -> None:
    """The members of `spec` that follow from the objective's type."""
    kind = _get(spec, "objective", "type")
    if not isinstance(kind, str) or kind not in tuple(ObjectiveType):
        return
    takes = OBJECTIVES[ObjectiveType(kind)]
    _default(spec, "data", "overlong", str(takes.overlong[0]))
    fallback = {"DPO": "Precomputed", "KTO": "Copy"}.get(kind)
    if kind in ("DPO", "ORPO", "KTO", "Reward", "Classification"):
        _default(spec, "objective", kind.lower(), {})
    if fallback and isinstance(options := spec["objective"].get(kind.lower()), Mapping):
        base = _get(spec, "method", "type") != "Full" and _starts_with_the_model(spec)
        spec["objective"] = {**spec["objective"], kind.lower(): {"reference": "Base" if base else fallback, **options}}


def _starts_with_the_model(spec: Mapping[str, Any]) -> bool:
    """Whether the model without its adapter is what training starts from."""
    adapter, lora = _get(spec, "model", "adapter"), _get(spec, "method", "lora")
    continues = isinstance(adapter, Mapping) and adapter.get("use", "Continue") == "Continue"
    takes = isinstance(lora, Mapping) and lora.get("initialization", "Default") != "Default"
    return _get(spec, "model", "checkpoint") is None and not continues and not takes


def _output(spec: Mapping[str, Any]) -> str:
    """An adapter beside merged weights fits no model that has an address."""
    adapter = _get(spec, "model", "adapter")
    merges = isinstance(adapter, Mapping) and adapter.get("use") == "Merge"
    return "Merged" if merges else "Adapter"


def _get(spec: Mapping[str, Any], part: str, field: str) -> Any:
    member = spec.get(part)
    return member.get(field) if isinstance(member, Mapping) else None


def _default(spec: dict[str, Any], part: str, field: str, value: Any) -> None:
    member = spec.get(part)
    if isinstance(member, Mapping):
        spec[part] = {field: value, **member}
