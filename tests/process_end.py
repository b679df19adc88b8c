"""Waiting for the end of a process that is nobody's child any more."""

from __future__ import annotations

import os
import select


def ends(pid: int, seconds: float = 10.0) -> bool:
    """Whether the process `pid` ends within so long, or has ended; it need not be a child of this one."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        end = select.poll()  # select() takes no descriptor above 1023, and a session of tests may have as many
        end.register(handle, select.POLLIN)
        return bool(end.poll(seconds * 1000))
    finally:
        os.close(handle)
