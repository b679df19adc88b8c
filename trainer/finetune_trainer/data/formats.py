"""Records in the formats that people keep them in, checked strictly, to examples.

Sources: OpenAI's chat fine-tuning format (Messages, with its `weight` of 0 or 1 per assistant message, `tools` and
`tool_calls`), FastChat's ShareGPT, Stanford Alpaca's fields and prompts, TRL's prompt-completion and language
modelling, preference and unpaired preference.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from finetune_trainer.data.conversations import check_tools, from_messages, from_share_gpt
from finetune_trainer.data.examples import BadRecord, Completion, Example, Text
from finetune_trainer.data.labelled import from_labelled
from finetune_trainer.data.preferences import answered, from_judged, from_preference, string
from finetune_trainer.spec.data import Format

Raw = bytes | dict[str, Any] | BadRecord
"""A record as it is read: a line of JSON, or the columns of a Parquet row, or why that row cannot be read."""

# https://github.com/tatsu-lab/stanford_alpaca, train.py, PROMPT_DICT
ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
ALPACA_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)

REQUIRED: dict[Format, tuple[str, ...]] = {
    Format.MESSAGES: ("messages",),
    Format.SHARE_GPT: ("conversations",),
    Format.ALPACA: ("instruction", "output"),
    Format.PROMPT_COMPLETION: ("prompt", "completion"),
    Format.TEXT: ("text",),
    Format.PREFERENCE: ("chosen", "rejected"),
    Format.UNPAIRED_PREFERENCE: ("prompt", "completion", "label"),
    Format.CLASSIFICATION: ("label",),
}
"""Names that a record of each format must have; `Auto` takes the first format whose names are all there."""

OPTIONAL: dict[Format, tuple[str, ...]] = {
    Format.MESSAGES: ("tools",),
    Format.SHARE_GPT: ("system", "tools"),
    Format.ALPACA: ("input", "history"),
    Format.PROMPT_COMPLETION: ("tools",),
    Format.TEXT: (),
    Format.PREFERENCE: ("prompt", "margin", "tools"),
    Format.UNPAIRED_PREFERENCE: ("tools",),
    Format.CLASSIFICATION: ("text", "messages", "tools"),
}

CHAT_FORMATS = frozenset({Format.MESSAGES, Format.SHARE_GPT})
"""Formats of conversations, which the chat template renders; those in `ANSWERS` may hold conversations too."""

ANSWERS = {
    Format.PROMPT_COMPLETION: "completion",
    Format.UNPAIRED_PREFERENCE: "completion",
    Format.PREFERENCE: "chosen",
    Format.CLASSIFICATION: "messages",
}
"""The columns that hold messages where records of these formats are conversations."""


def detect_format(names: Collection[str], columns: Mapping[str, str]) -> Format | None:
    """The format of records that have these column names, after renaming by `columns`; None if it is none."""
    known = set(names) | {ours for ours, theirs in columns.items() if theirs in names}
    return next((format_ for format_, required in REQUIRED.items() if known.issuperset(required)), None)


def column_names(format_: Format, columns: Mapping[str, str]) -> list[str]:
    """The columns of the files that a format reads, required ones first."""
    return [columns.get(name, name) for name in REQUIRED[format_] + OPTIONAL[format_]]


def parse(raw: Raw) -> dict[str, Any]:
    """A record as a mapping of columns. Raises BadRecord for bad UTF-8, wrong JSON, and JSON that is no object."""
    if isinstance(raw, BadRecord):
        raise raw
    if isinstance(raw, dict):
        return raw
    try:
        record = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadRecord(f"not valid UTF-8 at byte {error.start} of the line") from error
    except json.JSONDecodeError as error:
        raise BadRecord(f"not valid JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, or very deep nesting
        raise BadRecord(f"JSON beyond what can be read: {type(error).__name__}") from error
    if not isinstance(record, dict):
        raise BadRecord(f"a JSON {type(record).__name__} instead of an object")
    return record


def convert(raw: Raw, format_: Format, columns: Mapping[str, str]) -> Example:
    """The example that a record holds; raises BadRecord with the reason if it cannot be trained on."""
    record = parse(raw)
    names = REQUIRED[format_] + OPTIONAL[format_]
    values = {name: record.get(columns.get(name, name)) for name in names}
    missing = [columns.get(name, name) for name in REQUIRED[format_] if values[name] is None]
    if missing:
        raise BadRecord(f"no {missing[0]!r} (format {format_})")
    return _CONVERTERS[format_](values)


def _alpaca(values: dict[str, Any]) -> Example:
    if values["history"]:
        raise BadRecord("'history' is not part of the Alpaca format: write the turns as Messages")
    instruction, answer = string(values, "instruction"), string(values, "output")
    if values["input"] is None or not string(values, "input", empty=True).strip():
        return Completion(ALPACA_WITHOUT_INPUT.format(instruction=instruction), answer)
    return Completion(ALPACA_WITH_INPUT.format(instruction=instruction, input=values["input"]), answer)


def _text(values: dict[str, Any]) -> Example:
    return Text(string(values, "text"))


_CONVERTERS: dict[Format, Callable[[dict[str, Any]], Example]] = {
    Format.MESSAGES: lambda values: from_messages(values["messages"], check_tools(values["tools"])),
    Format.SHARE_GPT: from_share_gpt,
    Format.ALPACA: _alpaca,
    Format.PROMPT_COMPLETION: answered,
    Format.TEXT: _text,
    Format.PREFERENCE: from_preference,
    Format.UNPAIRED_PREFERENCE: from_judged,
    Format.CLASSIFICATION: from_labelled,
}
