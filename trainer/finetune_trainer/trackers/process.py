"""The process of one tracker: reads records from its standard input, and tries again what does not work.

The first line says which tracker and what about, the others are records of the run's history, and the last one how the
run ended. What the trainer shall say is written to standard output, as JSON lines.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from typing import Any, TextIO

from finetune_trainer.spec.tracker import MLflow, TensorBoard, WandB
from finetune_trainer.trackers.base import About, Outcome, Tracker, numbers
from finetune_trainer.trackers.mlflow import MLflowTracker
from finetune_trainer.trackers.tensorboard import TensorBoardTracker
from finetune_trainer.trackers.wandb import WandBTracker

MAKERS: dict[str, Callable[[Any], Tracker]] = {
    "mlflow": lambda options: MLflowTracker(MLflow.model_validate(options, strict=False)),
    "wandb": lambda options: WandBTracker(WandB.model_validate(options, strict=False)),
    "tensorBoard": lambda options: TensorBoardTracker(TensorBoard.model_validate(options, strict=False)),
}
"""One line for each tracker, by its name in `spec.trackers`."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
TRIES = 4
"""How often one record is sent, so that one which a tracker cannot take does not keep back all others."""
LAST_SECONDS = 60
"""Seconds that this process lives on after the trainer has closed its input."""


def main() -> None:
    """Work until the input ends."""
    say = _private_output()
    first = json.loads(sys.stdin.readline())
    tracker = MAKERS[first["tracker"]](first["options"])
    about = About.model_validate(first["about"])
    persist = _Persistent(say, time.sleep)
    persist(partial(tracker.start, about))
    outcome = Outcome.FAILED  # unless the trainer says how it ended, it did not live to say so
    for record in map(json.loads, sys.stdin):
        if "outcome" in record:
            outcome = Outcome(record["outcome"])
            break
        if metrics := numbers(record):
            at = record.get("time") or time.time()
            persist(partial(tracker.log, record["step"], at, metrics), TRIES)
    signal.alarm(LAST_SECONDS)
    persist(partial(tracker.finish, outcome))


class _Persistent:
    """Calls until it works, or so many times, or the trainer is gone; the first failure of all is said.

    Pauses grow until something works.
    """

    def __init__(self, say: Callable[[str], None], sleep: Callable[[float], None]) -> None:
        self._say = say
        self._sleep = sleep
        self._said = False
        self._pause = FIRST_PAUSE
        self._parent = os.getppid()

    def __call__(self, act: Callable[[], None], tries: int | None = None) -> None:
        for number in count(1):
            try:
                act()
                self._pause = FIRST_PAUSE
                return
            except Exception as error:  # a seam: whatever a tracker's library raises
                self._complain(error)
            if number == tries:
                return
            if os.getppid() != self._parent:
                raise SystemExit("the trainer is gone")
            self._sleep(self._pause)
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _complain(self, error: Exception) -> None:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        if not self._said:
            self._said = True
            self._say(_first_line(error))


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].strip()[:300]}" if lines else type(error).__name__


def _private_output() -> Callable[[str], None]:
    """Keep the standard output for ourselves: what libraries print goes where errors go."""
    out: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(text: str) -> None:
        message: Mapping[str, str] = {"say": text}
        print(json.dumps(message), file=out, flush=True)

    return say


if __name__ == "__main__":
    main()
