"""Rank 0's reporter in tests that run the loop inside the test process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune_trainer.context import Answer, StopSignal


@dataclass
class Recorder:
    """Rank 0's reporter: keeps the events, and asks for a stop after a chosen step."""

    stop_after: int | None = None
    events: list[Mapping[str, object]] = field(default_factory=list)
    stop: StopSignal = field(default_factory=StopSignal)

    def report(self, event: Mapping[str, object]) -> Answer:
        self.events.append(event)
        if event["kind"] == "progress" and event["step"] == self.stop_after:
            self.stop.request("the test")
        return Answer()

    def of(self, kind: str) -> list[Mapping[str, object]]:
        """The events of one kind, in order."""
        return [event for event in self.events if event["kind"] == kind]


Train = Callable[..., tuple[dict[str, Any], Recorder]]
