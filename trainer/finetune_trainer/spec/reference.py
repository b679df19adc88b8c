"""Writes the field reference, docs/manifest.md, to standard output: `python -m finetune_trainer.spec.reference`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel

from finetune_trainer.spec.base import INT32_MAX
from finetune_trainer.spec.derived import CLUSTER_ONLY
from finetune_trainer.spec.example import MINIMAL
from finetune_trainer.spec.fields import Entry, entries
from finetune_trainer.spec.job import API_VERSION
from finetune_trainer.spec.messages import type_name
from finetune_trainer.spec.notyet import OBJECTIVE_OPTIONS, VALUES
from finetune_trainer.spec.overrides import ALLOWED

COMPUTED_DEFAULTS = {
    "spec.method.lora": "its defaults, with `type: LoRA` or `QLoRA`",
    "spec.method.qlora": "its defaults, with `type: QLoRA`",
    "spec.objective.dpo": "its defaults, with `type: DPO`",
    "spec.objective.dpo.reference": "`Base` with an adapter beside the model that is the start, else `Precomputed`",
    "spec.objective.orpo": "its defaults, with `type: ORPO`",
    "spec.objective.kto": "its defaults, with `type: KTO`",
    "spec.objective.reward": "its defaults, with `type: Reward`",
    "spec.objective.classification": "its defaults, with `type: Classification`",
    "spec.objective.kto.reference": "`Base` with an adapter beside the model that is the start, else `Copy`",
    "spec.data.overlong": "`Split` with CPT, `Drop` with DPO, ORPO, KTO and Reward, else `Truncate`",
    "spec.checkpoint.keepBest": "`1` with `evaluation.everySteps`, else `0`",
    "spec.evaluation.compareBase": "`true` with `data.eval`, else `false`",
    "spec.output.format": "`Adapter` with LoRA and QLoRA, `Merged` where `model.adapter` is merged first, else `Full`",
}
TABLE = "\n| Field | Type | Default | What it does |\n|---|---|---|---|\n"
SECTIONS = {
    "model": "Model",
    "method": "Method",
    "objective": "Objective",
    "data": "Data",
    "training": "Training",
    "deepspeed": "DeepSpeed",
    "checkpoint": "Checkpoints",
    "evaluation": "Evaluation",
    "output": "Output",
    "workers": "Workers",
}
LAST_SECTION = "Credentials, queue, failures and time limits"
NOT_YET_MEMBERS = {f"spec.objective.{name}" for name in OBJECTIVE_OPTIONS}
CLUSTER_PATHS = tuple(f"spec.{path}" for path in CLUSTER_ONLY)

INTRODUCTION = f"""# The FineTuneJob manifest (`{API_VERSION}`)

<!-- Generated from the types by `make generate`; edit trainer/finetune_trainer/spec. -->

One YAML 1.2 document: `on` is a text, `2e-4` a number, and the text `"2"` is no number. Unknown fields, tags, merge
keys and duplicate keys are refused, and `status` is ignored. A field that is null counts as left out.
`finetune validate job.yaml` names every mistake at once.

The shortest manifest:

```yaml
{MINIMAL.strip()}
```

- *required*: there is no default; you decide.
- *not yet*: known and refused, with a message that says what works today.
- *cluster*: validated everywhere, with an effect on a cluster only.
- Addresses: `s3://bucket/path`, `file:///absolute/path`, or `file://./path` relative to the manifest's folder.
- The run's folder below `checkpoint.uri` is the job's uid on a cluster and `<namespace>.<name>` elsewhere. A run is
  continued there only if its identity is the same: model, method, objective, training data, `maxLength`, `overlong`,
  `packing`, and all of `training` but `microBatchSize`, `gradientCheckpointing` and `maxSkippedSteps`.
"""

OVERRIDES = """
## DeepSpeed options for `spec.deepspeed.overrides`

Every other option follows from the manifest, was removed from DeepSpeed, or is not available yet; it is refused with
the field to write instead. A text that holds a number counts as one: `"5e8"` is 500000000.

| Option | Type |
|---|---|
"""


def reference() -> str:
    """The whole page; the same text for the same types."""
    names = {bool: "true or false", int: "whole number", float: "number", str: "text"}
    options = [f"| `{option}` | {names[kind]} |\n" for option, kind in sorted(ALLOWED.items())]
    return "".join([INTRODUCTION, *_sections(), OVERRIDES, *options])


def _sections() -> Iterator[str]:
    heading = None
    for path, entry in entries().items():
        section = _section(path)
        if section != heading and section is not None:
            heading = section
            yield f"\n## {section}\n{TABLE}"
        if section is not None:
            yield row(entry, _marks(entry.path))


def _section(path: str) -> str | None:
    """The heading that a field stands under; None for `spec` itself."""
    parts = path.split(".")
    if parts[0] != "spec":
        return "Envelope"
    return SECTIONS.get(parts[1], LAST_SECTION) if len(parts) > 1 else None


def _marks(path: str) -> list[str]:
    marks = {"(*not yet*)": path in NOT_YET_MEMBERS, "(*cluster*)": _cluster_only(path)}
    return [mark for mark, holds in marks.items() if holds]


def row(entry: Entry, marks: Sequence[str] = ()) -> str:
    """The field's line in a table that begins with TABLE."""
    cells = [f"`{entry.path}`", _type(entry), default_of(entry), " ".join([entry.description, *marks])]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _cluster_only(path: str) -> bool:
    return any(path == outer or path.startswith((f"{outer}.", f"{outer}[]")) for outer in CLUSTER_PATHS)


def _type(entry: Entry) -> str:
    if entry.choices:
        text = ", ".join(f"`{choice}`{' (not yet)' if choice in VALUES else ''}" for choice in entry.choices)
    else:
        text = " ".join([type_name(entry, element=True).removeprefix("a "), *range_of(entry)])
    return f"list of {text}" if entry.is_list else text


def range_of(entry: Entry) -> Iterator[str]:
    """The bounds of a number in words: `from 1`, `to 1000`."""
    words = {"ge": "from", "gt": "above", "lt": "to below", "le": "to"}
    for bound in entry.bounds:
        limits = {word: getattr(bound, name, None) for name, word in words.items()}
        yield from (f"{word} {limit}" for word, limit in limits.items() if limit not in (None, INT32_MAX))


def default_of(entry: Entry) -> str:
    """What a field is when it is left out; "" when that is nothing, or what its members say."""
    if entry.path in COMPUTED_DEFAULTS:
        return COMPUTED_DEFAULTS[entry.path]
    if entry.required:
        return "*required*"
    default = entry.default
    if isinstance(default, BaseModel):  # its members' own defaults stand at the members
        default = default.model_dump(mode="json", exclude_defaults=True) or None
    return "" if default is None else f"`{_plain(default)}`"


def _plain(value: Any) -> str:
    return str(value) if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    sys.stdout.write(reference())
