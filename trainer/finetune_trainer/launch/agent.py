"""torchrun with one addition: how each failed rank ended is left in a JSON file, for the launcher that started it.

`python -m finetune_trainer.launch.agent <failures.json> <torchrun arguments>`. Otherwise only
torchrun's stderr would say so.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from finetune_trainer.launch.error_file import read_error_data
from finetune_trainer.launch.outcome import Failure, failure_of_exit
from finetune_trainer.launch.processes import die_with_parent, memory_kills


def main(argv: Sequence[str]) -> int:
    """Run torchrun; 0 when every rank ended well, 1 with `argv[0]` written otherwise."""
    die_with_parent()
    kills_before = memory_kills()
    try:
        torchrun.run(torchrun.parse_args(list(argv[1:])))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        out_of_memory = memory_kills() > kills_before
        records = [_record(rank, failure, out_of_memory) for rank, failure in error.failures.items()]
        Path(argv[0]).write_text(json.dumps([record.to_json() for record in records]), encoding="utf-8")
        return 1
    return 0


def _record(rank: int, failure: ProcessFailure, out_of_memory: bool) -> Failure:
    return read_error_data(failure.error_file_data) or failure_of_exit(rank, failure.exitcode, out_of_memory)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
