"""What a user reads for each kind of mistake in one field: what is wrong, and what to write instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic_core import ErrorDetails

from finetune_trainer.errors import Problem
from finetune_trainer.spec.example import shown_example
from finetune_trainer.spec.fields import Entry, entries, member_names
from finetune_trainer.spec.notyet import available, one_of
from finetune_trainer.spec.yaml_reader import core_scalar

Location = tuple[str | int, ...]

MAX_SHOWN = 120
_SECRET_NAME = re.compile(r"secret|token|password|access.?key|credential", re.IGNORECASE)
_SECRET_IN_URI = re.compile(r"://[^/]*@")

# Names from other trainers, and what this format has for them.
ELSEWHERE = {
    "adapter": "spec.method.lora or spec.model.adapter",
    "batchSize": "spec.training.globalBatchSize",
    "bf16": "spec.training.precision",
    "fp16": "spec.training.precision",
    "gpu": "spec.workers.gpusPerReplica",
    "gpus": "spec.workers.gpusPerReplica",
    "gradientAccumulationSteps": "spec.training.globalBatchSize",
    "gradientClipping": "spec.training.maxGradNorm",
    "initLoraWeights": "spec.method.lora.initialization",
    "loadIn4bit": "spec.method.type: QLoRA",
    "loraAlpha": "spec.method.lora.alpha",
    "loraDropout": "spec.method.lora.dropout",
    "loraplusLrRatio": "spec.method.lora.learningRateRatio",
    "lr": "spec.training.learningRate",
    "lrSchedulerType": "spec.training.schedule.type",
    "maxSeqLength": "spec.data.maxLength",
    "numTrainEpochs": "spec.training.epochs",
    "nvidia.com/gpu": "spec.workers.gpusPerReplica",
    "outputDir": "spec.output.uri",
    "perDeviceTrainBatchSize": "spec.training.microBatchSize",
    "r": "spec.method.lora.rank",
    "rankPattern": "spec.method.lora.perModule",
    "resumeFromCheckpoint": "spec.model.checkpoint",
    "saveSteps": "spec.checkpoint.everySteps",
    "sequenceLength": "spec.data.maxLength",
    "useDora": "spec.method.lora.dora",
    "useRslora": "spec.method.lora.rslora",
    "warmupSteps": "spec.training.schedule.warmupRatio",
}

_PATTERNS = {
    "metadata.name": "write lower-case letters, digits and dashes, a letter first and no dash last",
    "metadata.namespace": "write lower-case letters, digits and dashes, no dash first or last",
}
_NAME_ADVICE = "write lower-case letters, digits, dashes and dots, a letter or digit first and last"


class _Missing:
    """Stands for the value of a field that is not there."""

    def __repr__(self) -> str:
        return "nothing"


MISSING = _Missing()


def problem_from(error: ErrorDetails, document: Mapping[str, Any]) -> Problem:
    """One of pydantic's errors as a user should read it."""
    location = tuple(part for part in error["loc"] if part != "[key]")
    entry = entries().get(generic_path(location))
    value = MISSING if error["type"] == "missing" else lookup(document, location)
    return Problem(shown_path(location), shown_value(location, value), _message(error, location, entry, value))


def shown_path(location: Location) -> str:
    """`spec.data.train[0].uri`; free names in brackets: `spec.deepspeed.overrides["zero_optimization.stage"]`."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", part):
            path += f".{part}" if path else part
        else:
            path += f'["{part}"]'
    return path or "manifest"


def generic_path(location: Location) -> str:
    """`spec.data.train[].uri`, the path of the field's entry; an element of a plain list has the list's."""
    path = "".join("[]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")
    return path.removesuffix("[]")


def lookup(document: Any, location: Location) -> Any:
    """The value at `location`, `MISSING` where there is none."""
    for part in location:
        try:
            document = document[part]
        except (KeyError, IndexError, TypeError):
            return MISSING
    return document


def shown_value(location: Location, value: Any) -> Any:
    """`value` as it may be shown: no secret, no page of text."""
    name = str(location[-1]) if location else ""
    if isinstance(value, dict | list):
        return "a list" if isinstance(value, list) else "a mapping"
    if _SECRET_NAME.search(name) and isinstance(value, str):
        return "***"
    if isinstance(value, str):
        value = _SECRET_IN_URI.sub("://***@", value) if not value.startswith("hf://") or ":" in value[5:] else value
        return value if len(value) <= MAX_SHOWN else f"{value[:MAX_SHOWN]}..."
    return value


def _message(error: ErrorDetails, location: Location, entry: Entry | None, value: Any) -> str:
    kind = error["type"]
    context = error.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_field(location)
    if kind in ("enum", "literal_error") and entry:
        return _unknown_choice(entry, value)
    if kind == "missing" and entry:
        return f"is required: write for instance {shown_example(entry.path)} ({_first_clause(entry.description)})"
    if kind == "string_pattern_mismatch" and entry:
        return f"is no valid name: {_PATTERNS.get(entry.path, _NAME_ADVICE)}"
    if kind in _BOUNDS:
        bounds = {name: _plain(bound) for name, bound in context.items()}
        if isinstance(value, dict):  # whose length pydantic does not tell
            bounds["actual_length"] = len(value)
        return _BOUNDS[kind].format(**bounds)
    if kind.endswith("_type") and entry:
        return _wrong_type(entry, value, element=bool(location) and isinstance(location[-1], int))
    if kind == "string_type":  # a value under a free name, such as a label
        return f'must be a text: write {location[-1]}: "..." in quotes'
    return str(error["msg"])


_BOUNDS = {
    "greater_than": "is too small: write a number above {gt}",
    "greater_than_equal": "is too small: write {ge} or more",
    "less_than": "is too large: write a number below {lt}",
    "less_than_equal": "is too large: write {le} or less",
    "finite_number": "is no finite number: write a plain number",
    "string_too_long": "is too long: write at most {max_length} characters",
    "string_too_short": "is too short: write at least {min_length} character(s)",
    "too_long": "has {actual_length} entries: write at most {max_length}",
    "too_short": "has {actual_length} entries: write at least {min_length}",
}


def _unknown_field(location: Location) -> str:
    path, name = generic_path(location[:-1]), str(location[-1])
    parent = f"{path}[]" if location[:-1] and isinstance(location[-2], int) else path
    siblings = member_names(parent)
    if near := meant(name, siblings):
        return f"is no field here: write {near}"
    if theirs := _by_key(ELSEWHERE).get(_key(name)):
        return f"is no field here: write {theirs} instead"
    if _SECRET_NAME.search(name):
        return (
            "is no field, and a manifest holds no credentials: name a Secret in spec.storage.secretRef "
            "or spec.hub.tokenSecretRef, or use the environment or an AWS profile"
        )
    if other := _same_name_elsewhere(name):
        return f"is no field here: write {other} instead"
    return f"is no field here: remove it or write one of {', '.join(siblings)}"


def nearest(name: str, names: Sequence[str]) -> str | None:
    """The one of `names` that `name` most likely means, whatever its case or underscores."""
    by_key = {_key(candidate): candidate for candidate in names}
    close = difflib.get_close_matches(_key(name), by_key, n=1, cutoff=0.75)
    return by_key[close[0]] if close else None


def meant(name: str, siblings: Sequence[str]) -> str | None:
    """The field that an unknown `name` most likely stands for; none when other trainers use it for something else."""
    near = nearest(name, siblings)
    return near if near and (_key(near) == _key(name) or _key(name) not in _by_key(ELSEWHERE)) else None


def _by_key(names: Mapping[str, str]) -> dict[str, str]:
    return {_key(name): value for name, value in names.items()}


def _same_name_elsewhere(name: str) -> str | None:
    found = [entry.path for entry in entries().values() if _key(entry.name) == _key(name)]
    return one_of(found) if found else None


def _key(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def _unknown_choice(entry: Entry, value: Any) -> str:
    choices = available(entry.choices)
    near = nearest(value, choices) if isinstance(value, str) else None
    if len(choices) == 1:
        return f"is not supported: write {entry.name}: {choices[0]}"
    if near:
        return f"is none of the allowed values: write {near} (allowed: {', '.join(choices)})"
    return f"is none of the allowed values: write {one_of(choices)}"


def _wrong_type(entry: Entry, value: Any, *, element: bool) -> str:
    wanted, example = type_name(entry, element=element), shown_example(entry.path)
    if isinstance(value, str) and wanted in ("a whole number", "a number") and _is_number(value):
        return f"is text: write {entry.name}: {value.strip()} without quotes"
    if isinstance(value, str) and wanted == "true or false":
        meant = {"on": "true", "yes": "true", "true": "true", "off": "false", "no": "false", "false": "false"}
        return f"is text: write {entry.name}: {meant.get(value.lower(), 'true')} (without quotes)"
    if wanted == "a text" and isinstance(value, bool | int | float):
        return f'must be a text: write {entry.name}: "{value}" in quotes'
    if wanted == "a whole number" and isinstance(value, float):
        return f"must be a whole number: write {entry.name}: {max(1, round(value))}"
    return f"must be {wanted}: write for instance {example}"


def type_name(entry: Entry, *, element: bool = False) -> str:
    """The type of a field, or of an element of a list field, in words."""
    if entry.is_list and not element:
        return "a list"
    if entry.part or entry.is_map:
        return "a mapping"
    if entry.choices:
        return "one of " + ", ".join(entry.choices)
    names = {int: "a whole number", float: "a number", bool: "true or false", datetime: "a time"}
    return names.get(entry.core, "a text")


def _is_number(text: str) -> bool:
    parsed = core_scalar(text.strip())
    return isinstance(parsed, int | float) and not isinstance(parsed, bool)


def _plain(bound: Any) -> Any:
    return f"{bound:g}" if isinstance(bound, float) else bound


def _first_clause(text: str) -> str:
    """The description up to its first full stop or semicolon, to go on within a sentence."""
    clause = re.split(r"[.;](?:\s|$)", text)[0]
    return clause if clause[1:2].isupper() else clause[:1].lower() + clause[1:]
