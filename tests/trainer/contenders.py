"""Writers that race for one run: threads of this process, or processes forked from it, released together.

As a command it runs one race per line of JSON on stdin, `{"run", "attempts", "processes", "at_once"}`, in the store
whose address is its argument, and answers each with a list of `Outcome`s.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Protocol

from finetune_trainer.store import Fenced, Identity, ObjectStore, RunLog, Writer, open_store

SECONDS = 100  # a contender that did not get so far by then is missing


@dataclass(frozen=True)
class Outcome:
    """What became of a contender: the id of its claim, the seq of its commit, or what it was told when it lost."""

    writer: str = ""
    seq: int = 0
    told: str = ""


class Barrier(Protocol):
    """Of threads or of processes."""

    def wait(self) -> int: ...


def contend(store: ObjectStore, run: str, attempt: int | None, at_once: bool, barrier: Barrier) -> Outcome:
    """Claim the run and commit a checkpoint; with `at_once` nobody commits before all have claimed."""
    log = RunLog(store, run)
    log.history()
    barrier.wait()
    claimed: Writer | None = None
    try:
        claimed = log.claim(Identity(hash="0" * 64), attempt)
        lost = ""
    except Fenced as error:
        lost = str(error)
    if at_once:
        barrier.wait()
    if claimed is None:
        return Outcome(told=lost)
    try:
        state = claimed.write(claimed.new_checkpoint(1), "state", claimed.id.encode())
        return Outcome(claimed.id, seq=claimed.commit(1, None, [state], {}).seq)
    except Fenced as error:
        return Outcome(claimed.id, told=str(error))


def race(store: ObjectStore, run: str, attempts: Sequence[int | None], processes: bool, at_once: bool) -> list[Outcome]:
    """The outcomes of one contender per element of `attempts`, None for an attempt that the log counts."""
    contenders = len(attempts)
    barrier: Barrier
    if not processes:
        barrier = threading.Barrier(contenders, timeout=SECONDS)
        with ThreadPoolExecutor(contenders) as pool:
            return list(pool.map(lambda attempt: contend(store, run, attempt, at_once, barrier), attempts))
    fork = multiprocessing.get_context("fork")
    barrier, results = fork.Barrier(contenders, timeout=SECONDS), fork.SimpleQueue()

    def report(attempt: int | None) -> None:
        results.put(contend(store, run, attempt, at_once, barrier))

    started = [fork.Process(target=report, args=(attempt,)) for attempt in attempts]
    for process in started:
        process.start()
    return _collected(started, results.get)


def _collected(started: Sequence[multiprocessing.process.BaseProcess], get: Callable[[], Outcome]) -> list[Outcome]:
    for process in started:
        process.join(SECONDS)
    if any(process.exitcode for process in started):
        raise RuntimeError(f"contenders ended with {[process.exitcode for process in started]}")
    return [get() for _ in started]


if __name__ == "__main__":
    store = open_store(sys.argv[1])
    list(store.list("none/"))  # loads once what every process would load for itself
    for line in sys.stdin:
        print(json.dumps([asdict(outcome) for outcome in race(store, **json.loads(line))]), flush=True)
