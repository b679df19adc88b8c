"""Small facts about processes: whether the parent still lives, and whether the kernel killed something for memory."""

from __future__ import annotations

import os
import threading
from pathlib import Path

CHECK_INTERVAL = 0.5
"""Seconds between two looks at the parent."""

EXIT_ORPHANED = 1


def die_with_parent(parent: int | None = None) -> None:
    """End this process at once when its parent (default: the present one) is gone, so that no rank trains on unwatched.

    A thread that looks at the parent's id works on every Unix; prctl(PR_SET_PDEATHSIG) is Linux only and follows the
    thread that started this process, not the parent process.
    """
    expected = os.getppid() if parent is None else parent

    def watch() -> None:
        wake = threading.Event()
        while os.getppid() == expected:
            wake.wait(CHECK_INTERVAL)
        os._exit(EXIT_ORPHANED)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def memory_kills(root: Path = Path("/")) -> int:
    """Count the processes that the kernel has killed for memory in this container, or on this machine without one.

    Only a difference of two counts says something. Sources: `oom_kill` in the cgroup's memory.events (Linux, cgroup v2)
    and in /proc/vmstat; 0 where neither exists.
    """
    return next((count for path in _counters(root) if (count := _oom_kill(path)) is not None), 0)


def memory_kills_of_pod(root: Path = Path("/")) -> int:
    """Count the processes that the kernel has killed for memory since the container of this pod began; 0 outside one.

    Sources: `oom_kill` in the cgroup's memory.events (cgroup v2) or memory.oom_control (v1), which begin with it.
    """
    if "KUBERNETES_SERVICE_HOST" not in os.environ:
        return 0
    own = (root / "sys/fs/cgroup/memory.events", root / "sys/fs/cgroup/memory/memory.oom_control")
    return next((count for path in own if (count := _oom_kill(path)) is not None), 0)


def _counters(root: Path) -> list[Path]:
    groups = root / "proc/self/cgroup"
    own = groups.read_text(encoding="utf-8").rpartition("0::")[2].strip() if groups.is_file() else ""
    return [root / "sys/fs/cgroup" / own.lstrip("/") / "memory.events", root / "proc/vmstat"]


def _oom_kill(path: Path) -> int | None:
    if not path.is_file():
        return None
    counts = dict(line.split() for line in path.read_text(encoding="utf-8").splitlines())
    return int(counts["oom_kill"]) if "oom_kill" in counts else None
