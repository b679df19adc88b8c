"""Values of reports, made fit for a status: whatever a run sends, what comes out is in the bounds of `api.status`."""

from __future__ import annotations

import math

from finetune_trainer.spec.base import INT32_MAX

LONGEST_TEXT = 1024
LONGEST_URI = 2048
LONGEST_MESSAGE = 4096
"""Characters that are kept; the limits of `api.status`, and for a failure what a condition's message holds."""

LONGEST_REMAINING = 10 * 365 * 86400.0
"""Seconds; a run that claims to need longer says nothing about when it ends."""

INT64_MAX = 2**63 - 1


def count(value: object, most: int = INT32_MAX) -> int | None:
    """A number as a count from 0 to `most`; None for anything else."""
    found = number(value)
    return None if found is None or found < 0 else min(most, round(found))


def decimal(value: object) -> str | None:
    """A finite number as text with six digits; None for anything else, for instance the loss of a skipped step."""
    found = number(value)
    return None if found is None else f"{found:.6g}"


def text(value: object, longest: int) -> str:
    """A text without control characters (they would reach terminals), cut to `longest`; empty for anything else."""
    if not isinstance(value, str):
        return ""
    return "".join(one if one.isprintable() or one == "\n" else " " for one in value[:longest]).strip()


def total(value: object) -> int | None:
    """A sum, which goes beyond 32 bits."""
    return count(value, INT64_MAX)


def seconds(value: object) -> int | None:
    """A duration in whole seconds, rounded up."""
    found = number(value)
    return None if found is None else count(math.ceil(found))


def number(value: object) -> int | float | None:
    """A finite number; integers within 64 bits, because longer ones cannot be divided."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int):
        return max(-INT64_MAX, min(INT64_MAX, value))
    return value if math.isfinite(value) else None


def parsed(value: object) -> float | None:
    """A number in a text, as Kubeflow's callback writes every metric."""
    try:
        return float(str(value)[:64])
    except ValueError:
        return None


def share(percent: object) -> float | None:
    """A percentage as a share from 0 to 1."""
    found = number(percent)
    return None if found is None else min(100.0, max(0.0, found)) / 100


def percent(done: float | None) -> dict[str, int]:
    """The field for a share that is done. Rounded down: 100 is for a run that is done."""
    return {} if done is None else {"percent": int(100 * done + 1e-9)}


def remaining(seconds: object) -> float | None:
    """The seconds that are left; None where that says nothing."""
    found = number(seconds)
    return None if found is None or not 0 <= found <= LONGEST_REMAINING else float(found)


def uri(value: object) -> str | None:
    """An address as it is; a shortened one would be another address."""
    cleaned = text(value, LONGEST_URI)
    return cleaned if cleaned and cleaned == value else None
