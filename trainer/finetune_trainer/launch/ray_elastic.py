"""What an elastic run asks of Ray: whether more ranks would fit, at its start and while it trains."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import ray

from finetune_trainer.launch.elastic import JOIN_SECONDS, LOOK_SECONDS, Growth, room
from finetune_trainer.launch.launcher import Lines

logger = logging.getLogger(__name__)


def wait_for_all(most: int, per_rank: Mapping[str, float], given_up: Callable[[], bool]) -> None:
    """Wait until all ranks fit, for at most `JOIN_SECONDS`: starting with a few and again with all takes longer."""
    deadline, pause = time.monotonic() + JOIN_SECONDS, threading.Event()
    while room(_resources(ray.cluster_resources), per_rank) < most and time.monotonic() < deadline and not given_up():
        pause.wait(LOOK_SECONDS / 2)


def _resources(ask: Callable[[], dict[str, float]]) -> dict[str, float]:  # Ray's functions have no types
    return ask()


@contextmanager
def growing(each: int, per_rank: Mapping[str, float], lines: Lines) -> Iterator[None]:
    """Ask the ranks to make room, within a with block, whenever `each` more of them have fitted for long enough."""
    ended = threading.Event()
    growth = Growth(each)

    def watch() -> None:
        while not ended.wait(LOOK_SECONDS):
            if growth.due(room(_resources(ray.available_resources), per_rank), lines.training()):
                logger.info("there is room for more ranks: those that train commit and are started with them")
                lines.resize.ask()

    thread = threading.Thread(target=watch, name="elastic-growth", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
