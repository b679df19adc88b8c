"""A stop that is asked for before any rank has begun waits for nobody."""

from __future__ import annotations

import threading

import pytest

from finetune_trainer.context import StopSignal
from finetune_trainer.launch.launcher import Lines
from finetune_trainer.launch.progress import HttpReporter
from finetune_trainer.launch.supervisor import Deadlines, Supervisor
from launch_job import Shown

NEVER = 240.0
"""Seconds for everything else that would end the run."""


class NoRoom:
    """A launcher whose ranks find no place to start, or, once they were heard, do not answer."""

    def __init__(self, lines: Lines, heard: bool) -> None:
        self._lines, self._heard, self._aborted = lines, heard, threading.Event()

    def run(self) -> None:
        if self._heard:
            with HttpReporter(self._lines.channel) as rank:
                rank.report({"kind": "phase", "name": "loading the model", "detail": ""})
        self._lines.stop.request("SIGTERM received", within=1.0 if self._heard else NEVER)
        self._aborted.wait()

    def abort(self) -> None:
        self._aborted.set()


@pytest.mark.parametrize(
    ("heard", "code", "words"), [(False, 15, "before the ranks had started"), (True, 1, "in time")]
)
def test_a_run_whose_ranks_have_not_begun_stops_at_once(heard: bool, code: int, words: str) -> None:
    supervisor = Supervisor(Shown(), StopSignal(), Deadlines(start=NEVER, silence=NEVER))
    ended = supervisor.supervise(lambda lines: NoRoom(lines, heard))
    assert ended.exit_code == code
    assert ended.failure is not None and words in ended.failure.message
