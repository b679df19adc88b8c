"""How much memory there is to take: the machine's, or less where the container has a limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_trainer.engine.memory import available_bytes

GIB = 2**30


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    path = tmp_path / "meminfo"
    path.write_text(f"MemTotal: {64 * GIB // 1024} kB\nMemFree: 1 kB\nMemAvailable: {40 * GIB // 1024} kB\n")
    return path


def cgroup(folder: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{content}\n")
    return folder


def test_without_a_limit_it_is_what_the_machine_has(tmp_path: Path, meminfo: Path) -> None:
    assert available_bytes(tmp_path / "none", meminfo) == 40 * GIB
    unlimited = cgroup(tmp_path / "unlimited", {"memory.max": "max", "memory.current": GIB, "memory.stat": "x 1"})
    assert available_bytes(unlimited, meminfo) == 40 * GIB


VERSION_2 = ("memory.max", "memory.current", "memory.stat", "inactive_file")
_FILES = ("limit_in_bytes", "usage_in_bytes", "stat")
VERSION_1 = (*(f"memory/memory.{name}" for name in _FILES), "total_inactive_file")


@pytest.mark.parametrize(("limit", "usage", "stat", "cache"), [VERSION_2, VERSION_1], ids=["version 2", "version 1"])
def test_a_limit_leaves_what_is_not_used_and_the_file_cache(
    limit: str, usage: str, stat: str, cache: str, tmp_path: Path, meminfo: Path
) -> None:
    group = cgroup(tmp_path / "group", {limit: 8 * GIB, usage: 6 * GIB, stat: f"anon 1\n{cache} {GIB}"})
    assert available_bytes(group, meminfo) == 3 * GIB


def test_a_limit_above_what_the_machine_has_changes_nothing_and_one_that_is_passed_leaves_none(
    tmp_path: Path, meminfo: Path
) -> None:
    files = {"memory.max": 100 * GIB, "memory.current": GIB, "memory.stat": "inactive_file 0"}
    assert available_bytes(cgroup(tmp_path / "wide", files), meminfo) == 40 * GIB
    assert available_bytes(cgroup(tmp_path / "full", files | {"memory.max": GIB // 2}), meminfo) == 0


def test_this_machine_has_some() -> None:
    assert available_bytes() > 0
