"""Libraries that only a bench needs, in processes of their own that do what a line on stdin says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cache import cache_root, locked
from ranks import REPOSITORY


@contextmanager
def peer(
    script: str, arguments: Sequence[str], environment: Mapping[str, str], packages: Sequence[str]
) -> Iterator[subprocess.Popen[str]]:
    """A process of the program `script` of this folder, with `packages` on its path; it ends with the block."""
    path = [REPOSITORY / "trainer", REPOSITORY / "tests", REPOSITORY / "tests" / "trainer", installed(packages)]
    env = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, str(Path(__file__).with_name(script)), *arguments]
    pipe: Any = subprocess.PIPE
    with subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, text=True, bufsize=1) as process:
        try:
            yield process
        finally:
            process.kill()


def ask(process: subprocess.Popen[str], name: str, order: str) -> str:
    """Let a peer do what it is told and return its answer, one line; AssertionError if it fails."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{order}\n")
    answer = process.stdout.readline()
    assert answer, f"{name} failed at {order!r}; its words are above"
    return answer


def installed(packages: Sequence[str]) -> Path:
    """The folder that holds them, fetched from PyPI once per machine; what they need of others is here already."""
    folder = cache_root() / "bench" / "-".join(packages)
    with locked(folder):
        if not folder.exists():
            half = folder.with_name(f"{folder.name}.half")
            install = ["install", "--quiet", "--no-deps", "--target", str(half), *packages]
            subprocess.run([sys.executable, "-m", "pip", *install], check=True)
            half.rename(folder)
    return folder
