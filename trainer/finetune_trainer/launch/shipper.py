"""The process that brings what another one writes to the run's store; `finetune_trainer.launch.shipping` starts it.

`python -m finetune_trainer.launch.shipper <address of the logs> <folder> <file below it>`. It detaches itself from the
process that started it, ends when that has ended and all is stored, and loads neither torch nor Ray.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

EVERY = 20.0
"""Seconds from one piece to the next, so the longest wait of a line: 30 are promised, and stores take their time."""


def main(argv: Sequence[str]) -> int:
    """Detach, so that whoever waits for this can go on, and ship."""
    parser = argparse.ArgumentParser(prog="finetune_trainer.launch.shipper", description=__doc__)
    parser.add_argument("uri")
    parser.add_argument("folder", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--every", type=float, default=EVERY)
    arguments = parser.parse_args(argv)
    if os.fork():  # Ray kills a worker's children with it, but not their children
        os._exit(0)
    from finetune_trainer.launch.log_files import ship_all  # boto3, which takes its time

    ship_all(arguments.uri, arguments.folder, arguments.folder / arguments.file, arguments.every)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
