"""Sends what a process of a run on a cluster writes to the run's store, while it still goes where it went before.

The process writes to a file of the node. Another one (`finetune_trainer.launch.shipper`), which outlives it, brings
what is new there to the store and to the old place. So no store can hold the process up, nothing that it writes is
lost with it, and the last words of one that was killed arrive as well.
"""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from finetune_trainer.launch.environment import STDERR, STDOUT, redirect
from finetune_trainer.spec import FineTuneJob, logs_uri
from finetune_trainer.store.streams import Stream

LAST_LINES = 5.0
"""Seconds that a launcher waits, at its end, until its last lines are stored."""

CHECK_INTERVAL = 0.1

logger = logging.getLogger(__name__)


def ship_output(job: FineTuneJob, attempt: int | None, source: str, workdir: Path) -> Path | None:
    """From now on, bring all that this process and the C libraries in it write to the run's logs too.

    `source` is `launcher` or `rank-<n>`. Returns the file that is written to, which is removed when this process has
    ended and all is stored; None when the node has no room for it, which is logged and ends no run.
    """
    folder, stream = workdir / "logs", Stream.new(attempt or 0, source, datetime.now(UTC))
    file = folder / stream.file
    try:
        descriptor = locked_file(file)
        command = [sys.executable, "-m", "finetune_trainer.launch.shipper", logs_uri(job), str(folder), stream.file]
        subprocess.run(command, stdin=subprocess.DEVNULL, start_new_session=True, check=False)  # it detaches itself
        redirect(descriptor)
    except OSError as error:
        logger.warning("the output of %s is not stored: %s", source, error)
        return None
    return file


@contextmanager
def shipped_output(job: FineTuneJob, attempt: int | None, source: str, workdir: Path) -> Iterator[None]:
    """The same for the time of a with block, at whose end the last lines have `LAST_LINES` seconds to arrive."""
    before = {own: os.dup(own) for own in (STDOUT, STDERR)}
    file = ship_output(job, attempt, source, workdir)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for own, old in before.items():
            os.dup2(old, own)
            os.close(old)
        end = time.monotonic() + LAST_LINES
        while file is not None and file.exists() and time.monotonic() < end:
            time.sleep(CHECK_INTERVAL)


def locked_file(file: Path) -> int:
    """A new file to append to, locked as long as anybody can write there; it gets its name when it is locked."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    hidden = file.with_name(f".{file.name}")
    descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    hidden.rename(file)
    return descriptor
