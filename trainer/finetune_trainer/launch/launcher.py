"""What the two launchers, Ray Train and torchrun, have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from finetune_trainer.context import StopSignal
from finetune_trainer.launch.elastic import Resize
from finetune_trainer.launch.folders import RunFolder
from finetune_trainer.launch.machine import Machine
from finetune_trainer.launch.progress import Channel
from finetune_trainer.launch.rank import LOOP
from finetune_trainer.spec import FineTuneJob

Sink = Callable[[Mapping[str, object]], None]


@dataclass(frozen=True)
class Plan:
    """One run to launch: the job as it is run (absolute paths, overrides applied), on what, and where its files go.

    `attempt` is the number that a cluster gave, or None on one machine.
    """

    job: FineTuneJob
    machine: Machine
    folder: RunFolder
    workdir: Path
    attempt: int | None = None
    entrypoint: str = LOOP


@dataclass(frozen=True)
class Lines:
    """How a launcher talks to its surroundings: `channel` is where ranks report, `emit` takes events of its own.

    Ranks are told of a `resize`. `training` says whether they have begun since they were last started, `restarts` how
    often they were started again after a failure.
    """

    channel: Channel
    emit: Sink
    stop: StopSignal
    resize: Resize = field(default_factory=Resize)
    training: Callable[[], bool] = lambda: True
    restarts: Callable[[], int] = lambda: 0


class Launcher(Protocol):
    """Starts the ranks of one run and starts them again while `decide` allows it."""

    def run(self) -> None:
        """Return when every rank has ended well; raises RunFailed with the cause, or any error of its own."""
        ...

    def abort(self) -> None:
        """End all ranks at once, from any thread; `run` raises soon after."""
        ...
