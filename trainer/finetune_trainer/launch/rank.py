"""What every rank does under every launcher: build the context, call the training loop, record how it ended."""

from __future__ import annotations

import gc
import logging
import pkgutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from finetune_trainer.context import Reporter, RunContext, SilentReporter, StopSignal
from finetune_trainer.errors import Hang
from finetune_trainer.launch.lines import LineReporter
from finetune_trainer.launch.outcome import Failure, RunFailed, failure_of
from finetune_trainer.launch.progress import Channel, HttpReporter
from finetune_trainer.launch.watchdog import LAST_WORD, Watchdog, end_process
from finetune_trainer.model.absent import without
from finetune_trainer.spec import FineTuneJob

LOOP = "finetune_trainer.loop:train"
"""The training loop, as `module:function`; loaded in the ranks only, because it imports torch and DeepSpeed."""

LOG_DIR = "FINETUNE_LOG_DIR"
ATTEMPT = "FINETUNE_ATTEMPT"

Train = Callable[[FineTuneJob, RunContext], dict[str, object]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Which rank this process is, and what it computes on (`cpu` or `cuda:<index>`)."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    device: str


@dataclass(frozen=True)
class Settings:
    """What a rank is told besides its manifest and its place; `channel` is None when nobody listens.

    `checked` says that `preflight` was run on this machine already.
    """

    entrypoint: str
    channel: Channel | None
    attempt: int | None
    workdir: Path
    staging: Path | None
    checked: bool = False
    data_cache_bytes: int = 0


def run_rank(job: FineTuneJob, place: Place, settings: Settings, stop: StopSignal) -> dict[str, object]:
    """Call the loop and return its outcome; rank 0 reports it. Raises RunFailed, whatever went wrong.

    The process group is up already. A failure that another rank did not cause is reported by the rank that had it.
    """
    try:
        with ExitStack() as stack:
            reporter = _reporter(stack, job, place, settings, stop)
            if job.spec.method.qlora is None:  # peft imports it wherever it is installed: seconds of every rank
                stack.enter_context(without("bitsandbytes"))
            train = cast(Train, pkgutil.resolve_name(settings.entrypoint))
            gc.freeze()  # what imports have made stays: collections look at it no more, a quarter of the stream's time
            outcome = train(job, _context(place, settings, reporter, stop))
            if place.rank == 0:
                reporter.report({"kind": "result", **outcome})
            return outcome
    except BaseException as error:
        failure = failure_of(error, place.rank)
        logger.error("rank %d ended: %s: %s", place.rank, failure.reason, failure.message, exc_info=error)
        report_failure(failure, settings.channel)
        raise RunFailed(failure) from error


def report_failure(failure: Failure, channel: Channel | None, deadline: float = 10.0) -> None:
    """Deliver, within so many seconds, a failure that is not the consequence of another rank's."""
    if channel is not None and not failure.collateral:
        reporter = HttpReporter(channel)
        reporter.report(failure.event())
        reporter.close(deadline)


def _reporter(stack: ExitStack, job: FineTuneJob, place: Place, settings: Settings, stop: StopSignal) -> Reporter:
    """Return rank 0's reporter, watched for progress, or the silent one of the other ranks."""
    if place.rank != 0:
        return SilentReporter()

    def on_hang(message: str) -> None:
        hang = failure_of(Hang(message), place.rank)
        report_failure(hang, settings.channel, deadline=LAST_WORD)
        end_process(message)

    channel = settings.channel
    inner = LineReporter(print) if channel is None else stack.enter_context(HttpReporter(channel, stop))
    return stack.enter_context(Watchdog(inner, job.spec.no_progress_deadline_seconds, on_hang))


def _context(place: Place, settings: Settings, reporter: Reporter, stop: StopSignal) -> RunContext:
    return RunContext(
        rank=place.rank,
        world_size=place.world_size,
        local_rank=place.local_rank,
        local_world_size=place.local_world_size,
        device=place.device,
        attempt=settings.attempt,
        reporter=reporter,
        stop=stop,
        workdir=settings.workdir,
        checked=settings.checked,
        staging=settings.staging,
        data_cache_bytes=settings.data_cache_bytes,
    )
