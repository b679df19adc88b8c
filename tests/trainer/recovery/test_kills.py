"""A run killed again and again, at random moments, ends exactly like the one that was left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from finetune_trainer.store import RunLog, open_store
from small_job import SmallJob, make_small_job
from soak import trials

FINETUNE = Path(sys.executable).with_name("finetune")
RANKS = 2
MOMENTS = 5 * ["starting"] + 8 * ["training"] + 8 * ["saving"]  # one kill each
DROPOUT = {"type": "LoRA", "lora": {"rank": 4, "alpha": 8, "dropout": 0.1}}  # the random state matters too


@contextmanager
def running(job: Path) -> Iterator[psutil.Popen]:
    """`finetune run` on the job; whatever is left of it and its ranks is killed at the end."""
    environment = os.environ | {
        "FINETUNE_STATE_DIR": str(job.parent / "state"),
        "FINETUNE_WORKDIR": str(job.parent / "work"),
        "OMP_NUM_THREADS": "1",
    }
    command = [str(FINETUNE), "run", str(job), "--launcher", "torchrun", "--output", "json"]
    log = (job.parent / f"{job.stem}.log").open("ab")
    process = psutil.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        for one in [*family(process), process]:
            kill(one)
        process.wait(30)


def family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def ranks_of(process: psutil.Process) -> list[psutil.Process]:
    """The processes of the ranks, as far as they have started; torchrun's agent names their module further back."""
    return [one for one in family(process) if command_line(one)[1:4] == ["-u", "-m", "finetune_trainer.main"]]


def command_line(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def kill(process: psutil.Process) -> None:
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return


def poll(process: psutil.Popen, condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until the condition holds; False when the process ended or the time is up before."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.005)
    return False


def folders(job: SmallJob) -> set[str]:
    """Checkpoint folders, whether committed or not."""
    return {path.name for path in (job.folder / "checkpoints" / "default.killed" / "data").glob("*")}


def kill_once(job: SmallJob, process: psutil.Popen, moment: str, chance: random.Random) -> str:
    """Kill the driver or a rank at a moment chosen at random; says what was hit, or `missed` when the run ended first.

    `starting`: while the ranks start and restore; `training`: anywhere in the first steps after a save of this start;
    `saving`: within a few milliseconds of the beginning of a save.
    """
    if not poll(process, lambda: len(ranks_of(process)) == RANKS, 60):
        return "missed"
    if moment == "starting":
        poll(process, lambda: False, chance.uniform(0, 10))
    else:
        before = folders(job)
        poll(process, lambda: bool(folders(job) - before), 120)
        poll(process, lambda: False, chance.uniform(0, 1 if moment == "training" else 0.05))
    victim = chance.choice(["driver", "rank", "rank"])
    alive = ranks_of(process)
    if process.poll() is not None or not alive:
        return "missed"
    kill(process if victim == "driver" else chance.choice(alive))
    return f"{victim}, {moment}"


def finish(job: Path) -> int:
    with running(job) as process:
        return int(process.wait(900))


def final_state(job: SmallJob, name: str) -> dict[str, Any]:
    log = RunLog(open_store(f"file://{job.folder}/checkpoints"), f"default.{name}")
    last = log.checkpoints()[-1]
    assert all(log.verify(entry) == [] for entry in log.checkpoints())
    return dict(last.body["progress"])  # type: ignore[arg-type]


@trials(3, len(MOMENTS))
@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_run_killed_at_random_moments_ends_like_the_uninterrupted_one(tmp_path: Path, trials: range) -> None:
    job = make_small_job(tmp_path)
    steps = 300 + 45 * len(trials)  # more than all kills need
    training = {"maxSteps": steps, "globalBatchSize": 4, "microBatchSize": 1}
    checkpoint = {"everySteps": 20, "keepBest": 0}
    common = {"training": training, "method": DROPOUT, "checkpoint": checkpoint, "evaluation": {"everySteps": 100}}
    whole = job.write("whole", **common)
    killed = job.write("killed", **common, failurePolicy={"maxRestarts": 0})
    assert finish(whole) == 0
    chance = random.Random(4)
    moments, hits = chance.sample(MOMENTS, len(MOMENTS)), []
    for number in trials:
        with running(killed) as process:
            hits.append(kill_once(job, process, moments[number], chance))
    print("kills:", hits)
    assert finish(killed) == 0
    assert job.metrics("killed") == job.metrics("whole")
    assert final_state(job, "killed") == final_state(job, "whole")
    assert "missed" not in hits, "the run ended before it was killed often enough: give it more steps"
