"""What a check found, and what it was shown of the cluster."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from finetune_operator.kube.resources import Object


class State(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """What one check found; `remedy` is what to do about it, empty where there is nothing to do."""

    check: str
    state: State
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Seen:
    """Objects that the API server gave; or `refused`, the right that the caller lacks to read them."""

    objects: tuple[Object, ...] = ()
    refused: str = ""

    @property
    def first(self) -> Object | None:
        """The object that was asked for, if it is there."""
        return self.objects[0] if self.objects else None


def unreadable(check: str, seen: Seen) -> Finding:
    """What to say where the caller may not read what the check needs."""
    remedy = "ask a cluster administrator for this right, or have one run the command"
    return Finding(check, State.WARNING, f"not checked: you may not {seen.refused}", remedy)
