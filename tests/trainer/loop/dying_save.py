"""What test_left_in_memory.py runs: ranks that are killed while the state of a step is stored, and then others.

Each function is called on every rank by `run_ranks`, in a process of its own.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch.distributed as dist

from finetune_trainer.context import RunContext
from finetune_trainer.loop import train
from finetune_trainer.spec import load_job
from finetune_trainer.store.file import FileStore
from loop_runner import Recorder


def run(payload: dict[str, Any]) -> dict[str, Any]:
    """Train the manifest `payload["job"]` with `payload["memory"]` as the node's; what rank 0 reported.

    With `dies`, [rank, step], that rank is killed by the kernel as it begins to store the state of that step; an object
    whose key has `forbid_reads` in it cannot be read.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if "dies" in payload and payload["dies"][0] == rank:
        _die_storing(payload["dies"][1])
    if "forbid_reads" in payload:
        _read_nothing_of(payload["forbid_reads"])
    dist.init_process_group("gloo")
    recorder = Recorder()
    manifest = Path(payload["job"])
    context = RunContext(
        *(rank, size, rank, size, "cpu", None, recorder, recorder.stop, manifest.parent / "work"),
        staging=Path(payload["memory"]),
    )
    result = train(load_job(manifest), context)
    dist.barrier()
    return {"result": result, "events": [dict(event) for event in recorder.events]}


def _die_storing(step: int) -> None:
    create = FileStore.create

    def dying(store: FileStore, key: str, *rest: Any, **more: Any) -> Any:
        if f"/data/{step}-" in key:
            os.kill(os.getpid(), signal.SIGKILL)
        return create(store, key, *rest, **more)

    FileStore.create = dying  # type: ignore[assignment,method-assign]


def _read_nothing_of(part: str) -> None:
    read_into, open_file = FileStore.read_into, FileStore.open

    def refuse(key: str) -> None:
        assert part not in key, f"{key} was read from the store"

    def reading(store: FileStore, key: str, *rest: Any, **more: Any) -> Any:
        refuse(key)
        return read_into(store, key, *rest, **more)

    def opening(store: FileStore, key: str) -> Any:
        refuse(key)
        return open_file(store, key)

    FileStore.read_into, FileStore.open = reading, opening  # type: ignore[assignment,method-assign]
