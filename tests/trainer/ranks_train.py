"""What each rank does in tests of whole runs: the training loop on a manifest, as a launcher would call it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from finetune_trainer.context import Answer, RunContext, SilentReporter, StopSignal
from finetune_trainer.spec import load_job, with_absolute_paths

TIMEOUT = timedelta(seconds=120)


class PrintingReporter:
    """Events as JSON lines on stderr, which `ranks.run_ranks` shows when a rank fails."""

    def report(self, event: Mapping[str, object]) -> Answer:
        print(json.dumps(event, default=str), file=sys.stderr)
        return Answer()


def train(payload: dict[str, Any]) -> dict[str, Any]:
    """Run `finetune_trainer.loop.train` on the manifest `job` with scratch space `workdir`; returns its result."""
    dist.init_process_group("gloo", timeout=TIMEOUT)
    from finetune_trainer.loop import train as run_loop

    path = Path(payload["job"])
    job = with_absolute_paths(load_job(path), path.parent)
    return run_loop(job, context(Path(payload["workdir"])))


def context(workdir: Path) -> RunContext:
    """This rank's place among the ranks of the initialised process group, all on this machine's CPU."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    reporter = PrintingReporter() if rank == 0 else SilentReporter()
    return RunContext(rank, world_size, rank, world_size, "cpu", None, reporter, StopSignal(), workdir)
