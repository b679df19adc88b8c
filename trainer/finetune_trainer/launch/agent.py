"""torchrun with one addition: how each failed rank ended is left in a JSON file, for the launcher that started it.

`python -m finetune_trainer.launch.agent <failures.json> <torchrun arguments>`. Otherwise only
torchrun's stderr would say so.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from finetune_trainer.launch.error_file import read_error_data
from finetune_trainer.launch.outcome import Failure, failure_of_exit
from finetune_trainer.launch.processes import die_with_parent, memory_kills

ENDED_BY_AGENT = 2
"""Seconds after the first failure; the agent's own times are whole seconds, and it looks ten times a second."""


def main(argv: Sequence[str]) -> int:
    """Run torchrun; 0 when every rank ended well, 1 with `argv[0]` written otherwise."""
    die_with_parent()
    kills_before = memory_kills()
    try:
        torchrun.run(torchrun.parse_args(list(argv[1:])))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        records = failures_of(error.failures, out_of_memory=memory_kills() > kills_before)
        Path(argv[0]).write_text(json.dumps([record.to_json() for record in records]), encoding="utf-8")
        return 1
    return 0


def failures_of(ended: Mapping[int, ProcessFailure], out_of_memory: bool) -> list[Failure]:
    """Return the failure of each rank: its own record, or what its exit code says.

    The agent ends all ranks as soon as it sees a first one fail, with SIGTERM and later SIGKILL; a rank without a
    record that ended well after the first one was ended by it.
    """
    first = min(failure.timestamp for failure in ended.values())
    return [
        read_error_data(failure.error_file_data)
        or replace(
            failure_of_exit(rank, failure.exitcode, out_of_memory),
            time=float(failure.timestamp),
            collateral=failure.exitcode == -signal.SIGTERM or failure.timestamp - first >= ENDED_BY_AGENT,
        )
        for rank, failure in ended.items()
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
