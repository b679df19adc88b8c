"""Counts the steps that restarts of the ranks throw away, from the events that all ranks send one after another."""

from __future__ import annotations

from collections.abc import Mapping

from finetune_trainer.context import RESUMING


class LostSteps:
    """Follows one launch. A restart goes on from the newest commit that was heard of, until the ranks tell better."""

    def __init__(self) -> None:
        self._lost = 0
        self._before = 0
        self._reached: int | None = None
        self._step: int | None = None
        self._committed: int | None = None

    def note(self, event: Mapping[str, object]) -> Mapping[str, object]:
        """The event; one that tells of a restart, or where it goes on, with `step` and `stepsLost`."""
        kind, step = event.get("kind"), event.get("step")
        if kind == "restart":
            return self._restarts(event)
        if kind == "resize":  # after a commit: where the ranks go on, nothing is lost
            self._reached = None
        if not isinstance(step, int):
            return event
        if kind == "phase" and event.get("name") == RESUMING:
            return self._resumes(event, step)
        if kind == "progress":
            self._step = step
            self._committed = self._committed or 0
        elif kind == "checkpoint":
            self._committed = step
        return event

    def _restarts(self, event: Mapping[str, object]) -> Mapping[str, object]:
        if self._step is None or self._committed is None:  # nothing had been trained
            return event
        self._before, self._reached = self._lost, self._step
        return self._goes_on(event, self._committed)

    def _resumes(self, event: Mapping[str, object], step: int) -> Mapping[str, object]:
        if self._reached is not None:
            return self._goes_on(event, step)
        self._step = self._committed = step
        return event

    def _goes_on(self, event: Mapping[str, object], step: int) -> Mapping[str, object]:
        assert self._reached is not None
        self._lost = self._before + max(0, self._reached - step)
        self._step = self._committed = step
        return {**event, "step": step, "stepsLost": self._lost}
