"""What a CEL rule of a CRD is, and how it is written into a schema.

Messages are those of `finetune_trainer.spec.rules`, word for word; `{expression}` in them stands for the text that a
CEL expression gives, since the API server computes messages too. A rule stands at an object and names the field that it
is about: so the API server shows that field's path, and not its value (addresses may hold credentials). What is
forbidden is shown without its value anyway, and what stands at the field itself costs the API server least.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

Reason = Literal["FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired"]

UNKNOWN = "is not valid: `finetune validate` says why"
"""Shown where the API server cannot compute a message, for instance about a text with a line break."""

_PLACE = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Check:
    """A mistake: the CEL condition `wrong`, and what to tell the user when it holds."""

    wrong: str
    message: str


@dataclass(frozen=True)
class Rule:
    """Mistakes in one field, of which the first that holds is shown.

    `at` is the path of the object that is `self` (`spec.data.train[]`, "" is the whole resource), `field` the path from
    there. `mirrors` names the check that does the same in `finetune_trainer.spec.rules`, or the type that does.
    """

    at: str
    field: str
    checks: tuple[Check, ...]
    mirrors: str
    reason: Reason = "FieldValueInvalid"
    found: str = ""
    """CEL text of the value that was found, for the end of each message."""

    given: str = ""
    """A CEL condition without which none of the checks holds: it is looked at once, and first."""

    once: bool = False
    """Whether it is about nothing that may change, so that no update needs to look at it again."""

    @property
    def path(self) -> str:
        """The field as a user would look it up; `[]` is any element of a list."""
        return f"{self.at}.{self.field}".strip(".")


def rule(at: str, field: str, wrong: str, message: str, *, mirrors: str, reason: Reason | None = None) -> Rule:
    """A rule with a single check."""
    return Rule(at, field, (Check(wrong, message),), mirrors, reason or "FieldValueInvalid")


def text(value: str) -> str:
    """`value` as a CEL string."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def texts(values: tuple[Any, ...] | list[Any]) -> str:
    """`values` as a CEL list of strings."""
    return f"[{', '.join(text(str(value)) for value in values)}]"


def number(expression: str, most: int) -> str:
    """A CEL text that shows a whole number from 0 to `most`.

    `string(expression)` would do, but the API server takes its length for unlimited and refuses the rule as too costly.
    """
    places = [10**place for place in reversed(range(len(str(most))))]
    digits = [f"({expression}) / {place} % 10" for place in places]
    shown = " + ".join(f"'0123456789'.substring({digit}, {digit} + 1)" for digit in digits)
    return f"({shown}).find('([1-9][0-9]*|0)$')"


def validation(rule: Rule) -> dict[str, Any]:
    """The rule as an entry of `x-kubernetes-validations`."""
    if rule.once:
        return {**_entry(rule, "oldSelf.hasValue() || "), "optionalOldSelf": True}
    return _entry(rule)


def _entry(rule: Rule, unless: str = "") -> dict[str, Any]:
    wrong = " ||\n".join(f"({check.wrong})" for check in rule.checks) if len(rule.checks) > 1 else rule.checks[0].wrong
    wrong = f"{rule.given} && ({wrong})" if rule.given else wrong
    entry = {
        "rule": f"{unless}!({wrong})",
        "reason": rule.reason,
        **({"fieldPath": f".{rule.field}"} if rule.field else {}),
    }
    if len(rule.checks) == 1 and not _PLACE.search(rule.checks[0].message):
        return {**entry, "message": rule.checks[0].message}
    return {**entry, "message": UNKNOWN, "messageExpression": _first_message(rule.checks, rule.found)}


def _first_message(checks: tuple[Check, ...], found: str) -> str:
    *others, last = checks
    choices = [f"({check.wrong}) ? {_expression(check.message)} :\n" for check in others]
    message = "".join([*choices, _expression(last.message)])
    shown = _expression(f" (got '{{{found}}}')")
    return f"({message}\n) + {shown}" if found else message


def _expression(message: str) -> str:
    """`is {self.x} long` as `'is ' + (self.x) + ' long'`."""
    pieces = _PLACE.split(message)
    parts = [text(piece) if index % 2 == 0 else f"({piece})" for index, piece in enumerate(pieces) if piece]
    return " + ".join(parts)
