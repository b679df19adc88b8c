"""`spec.deepspeed.overrides` as the API server checks it: every option that may be set, by its name and type.

A map of values of several types cannot be looked into by CEL, and its keys cannot be bounded by a schema; a list of
known members can: kubectl refuses all others as unknown fields, and `kubectl explain` shows what there is.
"""

from __future__ import annotations

from typing import Any

from finetune_trainer.spec.overrides import ALLOWED, MAX_TEXT, minimum

OVERRIDES = "spec.deepspeed.overrides"
OTHERS = (
    "All that may be set are members here. Any other option of DeepSpeed follows from the manifest, was removed from "
    "DeepSpeed, or is not available yet; `finetune validate` says what to write instead."
)
DOCUMENTATION = "DeepSpeed's option of this name: https://www.deepspeed.ai/docs/config-json"
# As finetune_trainer.spec.yaml_reader reads whole numbers: `500000000`, `5e8`, `0x1f`.
WHOLE_NUMBER = r"^[-+]?(0x[0-9a-fA-F]+|0o[0-7]+|[0-9]+(\.[0-9]*)?([eE][+]?[0-9]+)?)$"


def options() -> dict[str, Any]:
    """The schema of the object."""
    members = {key: {"description": DOCUMENTATION, **_option(key, kind)} for key, kind in ALLOWED.items()}
    return {"type": "object", "properties": members}


def _option(key: str, kind: type) -> dict[str, Any]:
    least = minimum(key)
    if kind is bool:
        return {"type": "boolean"}
    if kind is int:
        return {"x-kubernetes-int-or-string": True, "maxLength": 32, "pattern": WHOLE_NUMBER, "minimum": least}
    return {"type": "number", "minimum": least} if kind is float else {"type": "string", "maxLength": MAX_TEXT}
