"""Rank 0's reporter in tests that run the loop inside the test process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune_trainer.context import Answer, StopSignal


def _nothing(event: Mapping[str, object], stop: StopSignal) -> None:
    """Let the run go on."""


@dataclass
class Recorder:
    """Rank 0's reporter: keeps the events, asks for a stop after a chosen step, and calls `react` with each event.

    `react` may ask for a stop too, change the world, or raise, which ends the run there like a crash.
    """

    stop_after: int | None = None
    react: Callable[[Mapping[str, object], StopSignal], None] = _nothing
    events: list[Mapping[str, object]] = field(default_factory=list)
    stop: StopSignal = field(default_factory=StopSignal)

    def report(self, event: Mapping[str, object]) -> Answer:
        self.events.append(event)
        if event["kind"] == "progress" and event["step"] == self.stop_after:
            self.stop.request("the test")
        self.react(event, self.stop)
        return Answer()

    def of(self, kind: str) -> list[Mapping[str, object]]:
        """The events of one kind, in order."""
        return [event for event in self.events if event["kind"] == kind]


class Killed(Exception):
    """What stands for the end of the process."""


def kill_at_commit(step: int) -> Recorder:
    """The reporter of a run that dies just after its first commit of that step."""

    def react(event: Mapping[str, object], _: StopSignal) -> None:
        if event["kind"] == "checkpoint" and event["step"] == step:
            raise Killed

    return Recorder(react=react)


Train = Callable[..., tuple[dict[str, Any], Recorder]]
