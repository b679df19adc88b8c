"""What test_commits.py runs where it may mount a small disk: a job whose checkpoints meet a full disk, and then room.

`python full_disk.py <manifest> <disk>`, with the checkpoints' place on <disk>; prints what happened as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from finetune_trainer.context import RunContext, StopSignal
from finetune_trainer.errors import StorageError
from finetune_trainer.launch.outcome import failure_of
from finetune_trainer.loop import train
from finetune_trainer.spec import load_job
from finetune_trainer.store import RunLog, open_store
from loop_runner import Recorder

FULL_FROM = 6
PAGE = 4096


def fill(disk: Path) -> None:
    """Leave room for the largest object of a checkpoint, but not for all of it."""
    largest = max(path.stat().st_size for path in disk.glob("*/data/*/*"))
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(PAGE)) == PAGE:
                pass
        except OSError:
            file.truncate(max(0, file.tell() - largest - PAGE))


def run(manifest: Path, recorder: Recorder) -> dict[str, Any]:
    """The product's `train` on one rank."""
    context = RunContext(0, 1, 0, 1, "cpu", None, recorder, recorder.stop, manifest.parent / "work")
    return train(load_job(manifest), context)


def main(manifest: Path, disk: Path) -> dict[str, Any]:
    """Train until the disk is full, make room, train on."""

    def react(event: Mapping[str, object], _: StopSignal) -> None:
        if event["kind"] == "checkpoint" and event["step"] == FULL_FROM:
            fill(disk)

    log = RunLog(open_store(f"file://{disk}"), "default.full")
    try:
        run(manifest, Recorder(react=react))
        failed = None
    except StorageError as error:
        failed = failure_of(error)
    kept = log.checkpoints()
    problems = [problem for entry in kept for problem in log.verify(entry)]
    (disk / "filler").unlink()
    recorder = Recorder()
    result = run(manifest, recorder)
    return {
        "failed": None if failed is None else [failed.exit_code, failed.message, failed.retryable],
        "kept": [entry.step for entry in kept],
        "problems": problems,
        "trained": [event["step"] for event in recorder.of("progress")],
        "result": result,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    report = main(Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps(report))
