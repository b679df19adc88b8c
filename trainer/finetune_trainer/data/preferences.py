"""Prompts with an answer, with two answers of which one is better, or with an answer that is judged: texts or messages.

Sources: TRL's prompt-completion, preference (with the prompt apart, or as what both sides begin with) and unpaired
preference.
"""

from __future__ import annotations

from itertools import takewhile
from math import isfinite
from os.path import commonprefix
from typing import Any

from finetune_trainer.data.conversations import check_tools, from_messages
from finetune_trainer.data.examples import BadRecord, Chat, Completion, Judged, Preference


def string(values: dict[str, Any], name: str, *, empty: bool = False) -> str:
    """The text in column `name`; raises BadRecord for anything else, and without `empty` for white space alone."""
    value = values[name]
    if not isinstance(value, str):
        raise BadRecord(f"{name!r} is a {type(value).__name__} instead of a string")
    if not empty and not value.strip():
        raise BadRecord(f"{name!r} is empty")
    return value


def answered(values: dict[str, Any], column: str = "completion") -> Chat | Completion:
    """The prompt and the answer to it in `column`, which alone is trained; raises BadRecord."""
    prompt, answer = values["prompt"], values[column]
    if not isinstance(prompt, list) or not isinstance(answer, list):
        return Completion(string(values, "prompt", empty=True), string(values, column))
    if not answer:
        raise BadRecord(f"{column!r} holds no message")
    masked = [message | {"weight": 0} if isinstance(message, dict) else message for message in prompt]
    return from_messages(masked + answer, check_tools(values["tools"]))


def from_preference(values: dict[str, Any]) -> Preference:
    """Two answers to one prompt; without one, to what both begin with. Raises BadRecord."""
    if values["prompt"] is None:
        values = values | _apart(values["chosen"], values["rejected"])
    if values["chosen"] == values["rejected"]:
        raise BadRecord("'chosen' and 'rejected' are the same")
    return Preference(answered(values, "chosen"), answered(values, "rejected"), _margin(values["margin"]))


def from_judged(values: dict[str, Any]) -> Judged:
    """An answer with the target 1 if it is desirable, else 0; raises BadRecord."""
    label = values["label"]
    if label not in (True, False):  # 1 and 0 are equal to them
        raise BadRecord("'label' is neither true (desirable) nor false")
    return Judged(answered(values), (float(label),))


def _apart(chosen: object, rejected: object) -> dict[str, Any]:
    """What two texts or two lists of messages begin with as their prompt, and the rest of each."""
    if isinstance(chosen, list) and isinstance(rejected, list):
        count = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
    elif isinstance(chosen, str) and isinstance(rejected, str):
        count = len(commonprefix([chosen, rejected]))  # noqa: RUF071 -- of texts, by character
        if count and chosen[count - 1] == " ":  # as TRL's extract_prompt: a space belongs to the word behind it
            count -= 1
    else:
        raise BadRecord("'chosen' and 'rejected' are neither two texts nor two lists of messages")
    if not count:
        raise BadRecord("no 'prompt', and 'chosen' and 'rejected' do not begin alike")
    return {"prompt": chosen[:count], "chosen": chosen[count:], "rejected": rejected[count:]}


def _margin(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise BadRecord("'margin' is no finite number")
    return float(value)
