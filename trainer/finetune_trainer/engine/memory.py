"""How much memory this process may still take: what the machine has left, and what its container may."""

from __future__ import annotations

import os
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")
"""Where a container sees its own control group."""

LIMITS = (
    ("memory.max", "memory.current", "inactive_file"),  # version 2
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),  # version 1
)


def available_bytes(cgroup: Path = CGROUP, meminfo: Path = Path("/proc/meminfo")) -> int:
    """Bytes that may be taken before the machine or the container's limit is short of memory.

    File cache counts as free, as the kernel's own estimate MemAvailable has it (Documentation/filesystems/proc.rst).
    """
    lines = (line.split() for line in meminfo.read_text(encoding="ascii").splitlines())
    machine = next(int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:")
    return max(0, min([machine, *_left(cgroup)]))


def memory_in_use(device: str, statm: Path = Path("/proc/self/statm")) -> dict[str, int]:
    """Resident bytes of this process as `hostBytes`, and the most that its tensors ever took on a GPU as `deviceBytes`.

    /proc/self/statm counts in pages, the resident ones second (Documentation/filesystems/proc.rst).
    """
    host = int(statm.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if not device.startswith("cuda"):
        return {"hostBytes": host}
    return {"hostBytes": host, "deviceBytes": torch.cuda.max_memory_allocated(torch.device(device))}


def _left(cgroup: Path) -> list[int]:
    """What each limit of the container leaves; none where there is none."""
    found = []
    for limit, usage, cache in LIMITS:
        if (cgroup / limit).is_file() and (text := (cgroup / limit).read_text(encoding="ascii").strip()) != "max":
            stat = dict(line.split() for line in (cgroup / limit).with_name("memory.stat").read_text().splitlines())
            used = int((cgroup / usage).read_text(encoding="ascii"))
            found.append(int(text) - used + int(stat.get(cache, 0)))
    return found
