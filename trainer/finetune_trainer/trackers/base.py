"""What a tracker is, and what it is told of the run."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, JsonValue


class Outcome(StrEnum):
    """How this start of a run ended; a run that was stopped or failed may go on in another start."""

    FINISHED = "Finished"
    STOPPED = "Stopped"
    FAILED = "Failed"


class About(BaseModel):
    """The run: `run_id` is the same for all its attempts. `config`: the manifest, without credentials.

    `folder` is a local folder of the tracker's own; `store` and `prefix` say where files for people are kept: below
    that key in that store.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run_id: str
    name: str
    config: dict[str, JsonValue]
    folder: Path
    store: str
    prefix: str


class Tracker(Protocol):
    """One place that metrics are sent to. Every method may raise anything: it is tried again, or given up at the end.

    Made and used in one process and thread, which is not the trainer's.
    """

    def start(self, about: About) -> None:
        """Begin the run, or go on in it where an earlier attempt began it."""
        ...

    def log(self, step: int, time: float, metrics: Mapping[str, float]) -> None:
        """Take what was measured at a step; `time` in Unix seconds. A step may come again after a restart."""
        ...

    def finish(self, outcome: Outcome) -> None:
        """End this start of the run; nothing is logged after it."""
        ...


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """What of a record of the run's history is a metric."""
    found = {key: value for key, value in record.items() if isinstance(value, int | float) and key not in NO_METRICS}
    return {key: float(value) for key, value in found.items() if not isinstance(value, bool)}


NO_METRICS = ("step", "time")


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values as texts by their path, as parameters are kept: `spec.training.learningRate`."""
    found: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = str(value)
    return found
