"""TensorBoard: event files in the run's folder, one for each start of the run, written without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_trainer.spec.tracker import TensorBoard
from finetune_trainer.trackers.base import About, Outcome
from finetune_trainer.trackers.mirror import Mirror

OF_STEPS = {"loss", "learningRate"}
"""What the records of optimizer steps have, the second always, and those of evaluations have not."""


class TensorBoardTracker:
    """Event files in a local folder, copied to the run's folder every half minute."""

    def __init__(self, options: TensorBoard) -> None:
        self._writer: Any = None
        self._mirror: Mirror | None = None
        self._begun = False

    def start(self, about: About) -> None:
        """Open this start's own file."""
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        about.folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventFileWriter(str(about.folder))
        self._mirror = Mirror(about, about.folder, "tensorboard")

    def log(self, step: int, time: float, metrics: Mapping[str, float]) -> None:
        """One event; that of the first step tells TensorBoard to forget what an earlier start wrote from there on."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary

        if not self._begun and OF_STEPS & metrics.keys():
            begin = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=time, step=step, session_log=begin))
            self._begun = True
        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._writer.add_event(Event(wall_time=time, step=step, summary=Summary(value=values)))
        assert self._mirror is not None
        self._mirror.copy_sometimes(self._writer.flush)

    def finish(self, outcome: Outcome) -> None:
        """Close the file and copy it a last time."""
        self._writer.close()
        assert self._mirror is not None
        self._mirror.copy()
