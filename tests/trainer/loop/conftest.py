"""The training loop on one rank inside the test process: no start-up to pay, everything else real."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from loop_runner import Recorder, Train
from small_job import SmallJob, make_small_job

os.environ.setdefault("DS_ACCELERATOR", "cpu")


@pytest.fixture(scope="session")
def gloo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)  # a second thread costs more than it brings on tensors this small
    rendezvous = tmp_path_factory.mktemp("rendezvous") / "file"
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=0, world_size=1, timeout=timedelta(seconds=60)
    )
    yield
    dist.destroy_process_group()


@pytest.fixture
def process_group(gloo: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A group of one rank, with the variable that DeepSpeed looks up; elsewhere accelerate would misread it.

    The groups of the runs are given up in the end: three threads each, which wake a hundred times a second.
    """
    import torch.distributed as dist

    from finetune_trainer.engine.collectives import ControlGroup

    made: list[ControlGroup] = []
    create = ControlGroup.create

    def remembering(timeout_seconds: float) -> ControlGroup:
        made.append(create(timeout_seconds))
        return made[-1]

    monkeypatch.setattr(ControlGroup, "create", remembering)
    monkeypatch.setenv("LOCAL_RANK", "0")
    yield
    for one in made:
        dist.destroy_process_group(one.group)


@pytest.fixture
def small_job(tmp_path: Path) -> SmallJob:
    return make_small_job(tmp_path)


@pytest.fixture
def train(process_group: None) -> Train:
    """Run the product's `train` on a manifest; returns its result and what it reported."""
    from finetune_trainer.context import RunContext
    from finetune_trainer.loop import train as train_job
    from finetune_trainer.spec import load_job

    def run(path: Path, recorder: Recorder | None = None, **more: Any) -> tuple[dict[str, Any], Recorder]:
        recorder = recorder or Recorder()
        workdir = path.parent / "work" / path.stem
        context = RunContext(0, 1, 0, 1, "cpu", None, recorder, recorder.stop, workdir, **more)
        return train_job(load_job(path), context), recorder

    return run
